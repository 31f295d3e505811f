"""Writes what the documentation repeats: a page per verb from its `--help`, tables from their data, the levels.

    python docs/generate.py            # write them
    python docs/generate.py --check    # exit status 1, naming them, where they are not what would be written

`tests/test_docs.py` holds the repository to it. A table stands between `<!-- NAME -->` and `<!-- end NAME -->`.
"""

import ast
import contextlib
import io
import json
import re
import runpy
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from loralab.cli.main import main
from loralab.cli.table import ANALYSES, VERBS
from loralab.methods.table import METHODS

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent
RECORDS = ("measured.json", "baselines.json", "claims.json", "learned.json", "fewer-blocks.json", "scaling.json")
"""In `docs/results`: what was measured, each with its machine, date and command, and its table's cells."""
ARCHITECTURE = REPOSITORY / "tests" / "test_architecture.py"
WITH_TABLES = (
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    DOCS / "cli" / "index.md",
    DOCS / "internals" / "architecture.md",
    DOCS / "internals" / "fast-paths.md",
    DOCS / "methods" / "index.md",
    DOCS / "scaling.md",
    DOCS / "reference" / "dependencies.md",
    *(DOCS / "results").glob("*.md"),
)


def written() -> dict[Path, str]:
    """Every generated file and the text that it has to have."""
    pages = {DOCS / "cli" / f"{'-'.join(words)}.md": _page(words) for words in _commands()}
    pages[DOCS / "pictures" / "levels.svg"] = _levels_drawn()
    return pages | {path: _with_tables(path) for path in WITH_TABLES}


def stale() -> list[str]:
    """Paths of the generated files that say something else, or should not be there."""
    wanted = written()
    changed = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    extra = [path for path in (DOCS / "cli").glob("*.md") if path not in wanted]
    return [str(path.relative_to(REPOSITORY)) for path in [*changed, *extra]]


# -- the command line -----------------------------------------------------------------------------------------


def _commands() -> Iterator[tuple[str, ...]]:
    yield from ((verb,) for verb in VERBS)
    yield from (("analyse", name) for name in ANALYSES)


def _help(*words: str) -> str:
    """What `loralab WORDS --help-all` prints."""
    answer = io.StringIO()
    with contextlib.redirect_stdout(answer):
        main([*words, "--help-all"])
    return answer.getvalue()


def _page(words: tuple[str, ...]) -> str:
    """One verb's page: its summary, its example, its flags."""
    usage, summary, *sections = _help(*words).rstrip("\n").split("\n\n")
    titled = {section.partition(":\n")[0]: section.partition(":\n")[2] for section in sections if ":\n" in section}
    example = re.sub(r"^  ", "", titled.pop("example"), flags=re.M)
    shown = "\n".join(line.strip() if number else line for number, line in enumerate(usage.splitlines()))
    parts = [
        f"# loralab {' '.join(words)}",
        summary,
        f"```text\n{shown.removeprefix('usage: ')}\n```",
        f"```bash\n{example}\n```",
    ]
    for title, entries in titled.items():
        heading = "Flags" if title == "flags" else title.capitalize()
        parts.append(f"## {heading}\n\n{_definitions(entries)}")
    return "\n\n".join(parts) + "\n"


def _definitions(entries: str) -> str:
    """`  --rank N     The rank. [8]` and the lines below it, as a list of definitions."""
    found: list[tuple[str, list[str]]] = []
    for line in entries.splitlines():
        if re.match(r"  \S", line):
            term, _, words = line.strip().partition("  ")
            found.append((term, [words.strip()] if words else []))
        else:
            found[-1][1].append(line.strip())
    return "\n\n".join(f"`{term}`\n: {_markdown(' '.join(words))}" for term, words in found)


def _markdown(words: str) -> str:
    """Help texts are plain: signs that Markdown would take for its own are escaped, the default is set apart."""
    text = re.sub(r"([*_<])", r"\\\1", words)
    return re.sub(r" \[([^\][ ]+)\]$", r" Default: `\1`.", text)


def _list(summaries: Mapping[str, str], before: str = "") -> str:
    """A table of verbs with links to their pages, which the navigation lists too."""
    words = {f"{before}{name}": summary for name, summary in summaries.items()}
    rows = [f"| [`{name}`]({name.replace(' ', '-')}.md) | {summary} |" for name, summary in words.items()]
    files = [f"{name} <{name.replace(' ', '-')}>" for name in words]
    toctree = ["```{toctree}", ":hidden:", "", *files, "```"]
    return "\n".join(["| | |", "|---|---|", *rows, "", *toctree])


FAMILIES = {
    "rank": "a low-rank update beside chosen weights",
    "size": "small layers between the model's own",
    "positions": "vectors before and after the prompt",
    "weights": "weights of the model itself",
    "alone": "all of them, by projected gradients",
}
"""What trains, by what sizes a method."""

# -- tables ---------------------------------------------------------------------------------------------------


def _with_tables(path: Path) -> str:
    """The file with every marked table written anew."""
    to_docs = "docs/" if path.parent == REPOSITORY else "../"
    text = path.read_text(encoding="utf-8")
    tables = {
        "verbs": _list(VERBS),
        "analyses": _list(ANALYSES, before="analyse "),
        "methods": _methods(to_docs),
        "families": _families(to_docs),
        "levels": _levels_written(),
        "fast paths": _fast_paths(),
        "licences": _licences(),
        **{name: _table(record["table"]) for name, record in records().items()},
    }
    for name, table in tables.items():
        marked = f"<!-- {name} -->\n{table}\n<!-- end {name} -->"
        text = re.sub(rf"<!-- {name} -->\n.*?<!-- end {name} -->", lambda _, marked=marked: marked, text, flags=re.S)
    return text


def _methods(to_docs: str) -> str:
    lines = ["| `--method` | in Python | what trains | paper |", "|---|---|---|---|"]
    for name, row in sorted(METHODS.items(), key=lambda named: named[1].sized_by != "rank"):
        link = f"[`{name}`]({to_docs}methods/{name}.md)"
        lines.append(f"| {link} | `{row.python}` | {row.trains} | [{row.paper}](https://arxiv.org/abs/{row.paper}) |")
    return "\n".join(lines)


def _families(to_docs: str) -> str:
    """The methods in a few lines: by what is added to the model."""
    families: dict[str, list[str]] = {words: [] for words in FAMILIES.values()}
    for name, row in METHODS.items():
        family = FAMILIES["alone" if row.alone else row.sized_by or "weights"]
        families[family].append(f"[`{name}`]({to_docs}methods/{name}.md)")
    return _table([["what trains", "`--method`"], *([words, " · ".join(names)] for words, names in families.items())])


@cache
def _fast_paths() -> str:
    """What small random models of each family show."""
    rows: list[list[str]] = runpy.run_path(str(DOCS / "fast_paths.py"))["rows"]()
    return _table(rows)


@cache
def _licences() -> str:
    """What the packages at hand say of themselves."""
    rows: list[list[str]] = runpy.run_path(str(DOCS / "licences.py"))["rows"]()
    return _table(rows)


def records() -> dict[str, dict[str, Any]]:
    """Everything that was measured, by name."""
    files = [json.loads((DOCS / "results" / name).read_text(encoding="utf-8")) for name in RECORDS]
    return {name: record for file in files for name, record in file.items()}


def _table(rows: list[list[str]]) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


# -- the levels -----------------------------------------------------------------------------------------------


def levels() -> list[list[str]]:
    """The packages by level, the lowest first, as the architecture test holds them."""
    for node in ast.parse(ARCHITECTURE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "GROUPS":
            return [sorted(group) for group in ast.literal_eval(node.value) if "__main__" not in group]
    raise LookupError(f"{ARCHITECTURE} has no GROUPS")


def _levels_written() -> str:
    rows = "\n".join(" · ".join(level) for level in reversed(levels()))
    return f"```text\n{rows}\n```"


def _levels_drawn() -> str:
    """A row of boxes for each level, cli on top."""
    width, high, step = 640, 30, 46
    boxes = []
    for row, level in enumerate(reversed(levels())):
        each = (width - 8 * (len(level) - 1)) / len(level)
        for column, name in enumerate(level):
            x, y = column * (each + 8), row * step + 1
            kind = ' class="paper"' if name == "core" else ""
            boxes.append(f'<rect{kind} x="{x + 1:.0f}" y="{y}" width="{each - 2:.0f}" height="{high}" rx="5"/>')
            boxes.append(f'<text x="{x + each / 2:.0f}" y="{y + 20}">{name}</text>')
    tall = len(levels()) * step - step + high + 2
    return LEVELS_SVG.format(width=width, height=tall, boxes="\n  ".join(boxes))


LEVELS_SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="The packages by level">
  <style>
    text {{ font: 14px ui-monospace, "DejaVu Sans Mono", monospace; fill: #24292f; text-anchor: middle; }}
    rect {{ fill: #eef3f7; stroke: #4a7a9c; stroke-width: 1.4; }} .paper {{ fill: #ffe3c2; stroke: #c26a12; }}
    @media (prefers-color-scheme: dark) {{
      text {{ fill: #e6edf3; }} rect {{ fill: #16222c; stroke: #6cb0d8; }} .paper {{ fill: #5a3410; stroke: #f0a04b; }}
    }}
  </style>
  {boxes}
</svg>
"""


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit("\n".join(["stale; run python docs/generate.py:", *stale()]) if stale() else 0)
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
