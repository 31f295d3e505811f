"""How an answer leaves the program: one JSON line, or lines and tables for people, 80 columns wide.

rich is imported where it is used: `--help` does not wait for it.
"""

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralab.cli.verb import Answer

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 80
SEVERITIES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
"""How severe a finding can be -> how that looks."""


def as_json(answer: Answer) -> str:
    """The answer on one line. A number that is NaN or infinite becomes null: JSON has no word for it."""
    return json.dumps(_plain(answer), ensure_ascii=False, allow_nan=False)


def show_answer(answer: Answer) -> None:
    """Print every key and value of the answer as aligned lines, nested ones with dots in their names."""
    values = _flat(answer)
    width = max(len(name) for name in values)
    for name, value in values.items():
        print(f"{name.ljust(width)}  {readable(value)}")


def show_lines(*sentences: str, indent: str = "") -> None:
    """Print sentences, each folded between words; lines after its first are indented. Paths are never broken."""
    for each in sentences:
        print(textwrap.fill(each, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False))


def show_files(paths: Iterable[str | Path]) -> None:
    """Print the paths of what was written, a line each."""
    for path in paths:
        print(path)


def show_heading(sentence: str) -> None:
    """Print a sentence in bold."""
    from rich.text import Text

    _print(Text(sentence, "bold"))


def show_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str] | None], *, words: int = 1, even: bool = False
) -> None:
    """Print a table under its title: words in the first `words` columns, numbers in the others; None for a row draws a
    line. `even` makes all columns equally wide, over the whole page.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(width=WIDTH if even else None)
    for place, name in enumerate(columns):
        is_words = place < words
        table.add_column(
            Text(name),
            justify="left" if is_words else "right",
            no_wrap=not is_words,
            overflow="fold",
            ratio=1 if even else None,
        )
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*(Text(cell, overflow="fold") for cell in row))
    if title:
        show_heading(title)
    _print(table)


def show_kinds(answer: Answer, title: str, columns: Mapping[str, str]) -> None:
    """Print a line for each kind of module, with a column for each key of `columns`, and what was written."""
    rows = [
        [f"{means['modules']} {kind}", *(f"{means[key]:.4g}" for key in columns)]
        for kind, means in answer["kinds"].items()
    ]
    show_table(title, ["modules", *columns.values()], rows)
    show_files(answer["files"])


def show_findings(findings: Iterable[Mapping[str, Any]]) -> None:
    """Print findings one after another: how severe, where, what, and what to do."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=max(map(len, SEVERITIES)))
    grid.add_column(overflow="fold")
    for each in findings:
        said = Text.assemble((each["where"], "bold"), f": {each['what']}", (f"\n→ {each['advice']}", "green"))
        grid.add_row(Text(each["severity"], SEVERITIES[each["severity"]]), said)
    _print(grid)


def readable(value: Any) -> str:
    """A value for people: thousands separated, four significant digits, lists with commas."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(readable(each) for each in value)
    return str(value)


def readable_bytes(count: int) -> str:
    """A number of bytes in the unit that suits it, powers of 1000."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _flat(answer: Answer, prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in answer.items():
        values |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return values


def _plain(value: Any) -> Any:
    """The value in JSON's own types. Raises TypeError for a type that has no obvious form there (our bug)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"an answer holds {type(value).__name__}, which JSON cannot: {value!r}")


def _print(shown: "RenderableType") -> None:
    from rich.console import Console

    Console(width=WIDTH, highlight=False).print(shown)
