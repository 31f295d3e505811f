"""An analysis: its numbers as facts, its lists as tables, its remarks as sentences, and its drawings."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loralab.analysis.report.kinds.adapters import ADAPTER_DRAWINGS
from loralab.analysis.report.kinds.layers import LAYER_DRAWINGS, STATES, states_table
from loralab.analysis.report.reading import COLUMNS, FIRST, TABLES, TITLES
from loralab.analysis.report.section import Content, ResultTable, Section
from loralab.pictures.svg.drawing import Drawing

_DRAWINGS: Mapping[str, Callable[[Content], Sequence[Drawing | None]]] = {**ADAPTER_DRAWINGS, **LAYER_DRAWINGS}
_HIDDEN = ("files", "out", "rank_pattern", "windows", "D", "std", "convention", "heal", *STATES)
"""Parts of a result that are shown in another way, or as a drawing."""
LONG = 60
"""Letters of a text that is a sentence and no fact."""
MOST_LISTED = 16


def analysis_section(marker: str, folder: Path, content: dict[str, Any]) -> Section:
    """Of any analysis, and of a merge."""
    kind = "merge" if marker == "loralab_merge" else marker
    shown = {name: value for name, value in content.items() if name not in _HIDDEN}
    drawings = [each for each in _DRAWINGS[kind](content) if each is not None] if kind in _DRAWINGS else []
    tables = [_table(name, value) for name, value in shown.items() if isinstance(value, list | dict)]
    tables.append(states_table(content))
    return Section(
        kind,
        TITLES[kind],
        folder,
        content,
        facts={_words(name): _listed(value) for name, value in shown.items() if _is_fact(value)},
        sentences=[_sentence(each) for value in shown.values() for each in _remarks(value)],
        tables=[table for table in tables if table is not None],
        drawings=drawings,
        pictures=[] if drawings else sorted(folder.glob(f"{marker}*.png")),
    )


def _words(name: str) -> str:
    return COLUMNS.get(name, name.replace("_", " "))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _is_fact(value: Any) -> bool:
    if isinstance(value, list):
        names = all(isinstance(each, str) and len(each) <= LONG for each in value)
        return 0 < len(value) <= MOST_LISTED and (names or all(map(_is_number, value)))
    return not isinstance(value, dict) and not (isinstance(value, str) and len(value) > LONG)


def _listed(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _remarks(value: Any) -> Sequence[str]:
    texts = value if isinstance(value, list) else [value]
    return [each for each in texts if isinstance(each, str) and len(each) > LONG]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _place(column: str, value: Any) -> tuple[int, bool]:
    """What names a row comes first, then words, then numbers."""
    return FIRST.index(column) if column in FIRST else len(FIRST), not isinstance(value, str)


def _table(name: str, value: Any) -> ResultTable | None:
    """A list of objects has a row for each; an object of objects too, with the names in front; an object of numbers
    has two columns."""
    if isinstance(value, dict):
        rows = [{name: key} | inner for key, inner in value.items() if isinstance(inner, dict)]
        rows = rows or [{name: _words(key), "value": inner} for key, inner in value.items() if _is_number(inner)]
    else:
        rows = [row for row in value if isinstance(row, dict)]
    if not rows:
        return None
    columns = [key for key, inner in rows[0].items() if not isinstance(inner, list | dict)]
    columns.sort(key=lambda column: _place(column, rows[0][column]))
    return ResultTable.of(
        TABLES.get(name, _words(name).capitalize()),
        [_words(column) for column in columns],
        [[row.get(column) for column in columns] for row in rows],
    )
