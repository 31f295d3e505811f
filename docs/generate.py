"""Writes what the documentation repeats of the code: a page per verb from its `--help`, and the tables from their data.

    python docs/generate.py            # write them
    python docs/generate.py --check    # exit status 1, naming them, where they are not what would be written

`tests/test_docs.py` holds the repository to it. A table stands between `<!-- NAME -->` and `<!-- end NAME -->`.
"""

import contextlib
import io
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from loralab.cli.main import ANALYSES, VERBS, main

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent
METHODS = DOCS / "methods" / "methods.toml"
MEASURED = DOCS / "results" / "measured.json"
EVERY_VERB = "every verb"
"""The section of a help page that is the same on all of them."""


def written() -> dict[Path, str]:
    """Every generated file and the text that it has to have."""
    pages = {DOCS / "cli" / f"{'-'.join(words)}.md": _page(words) for words in _commands()}
    pages[DOCS / "cli" / "index.md"] = _commands_page()
    for path in (REPOSITORY / "README.md", DOCS / "methods" / "index.md", DOCS / "results" / "speed-and-memory.md"):
        pages[path] = _with_tables(path)
    return pages


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
    """What `loralab WORDS --help` prints."""
    answer = io.StringIO()
    with contextlib.redirect_stdout(answer):
        main([*words, "--help"])
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


def _commands_page() -> str:
    lists = {
        "Verbs": [(verb, verb, summary) for verb, summary in VERBS.items()],
        "Analyses": [(f"analyse {name}", f"analyse-{name}", summary) for name, summary in ANALYSES.items()],
    }
    parts = [(DOCS / "cli" / "head.txt").read_text(encoding="utf-8").rstrip("\n")]
    for title, entries in lists.items():
        rows = "\n".join(f"| [`{name}`]({file}.md) | {summary} |" for name, file, summary in entries)
        parts.append(f"## {title}\n\n| | |\n|---|---|\n{rows}")
        files = "\n".join(f"{name} <{file}>" for name, file, _ in entries)
        parts.append(f"```{{toctree}}\n:hidden:\n\n{files}\n```")
    return "\n\n".join(parts) + "\n"


# -- tables ---------------------------------------------------------------------------------------------------


def _with_tables(path: Path) -> str:
    """The file with every marked table written anew."""
    to_docs = "docs/" if path.parent == REPOSITORY else "../"
    text = path.read_text(encoding="utf-8")
    for name, table in {"methods": _methods(to_docs), **_measurements()}.items():
        marked = f"<!-- {name} -->\n{table}\n<!-- end {name} -->"
        text = re.sub(rf"<!-- {name} -->\n.*?<!-- end {name} -->", lambda _, marked=marked: marked, text, flags=re.S)
    return text


def methods() -> dict[str, dict[str, str]]:
    """By name of a method: its page, how Python says it, what trains, and its paper."""
    return tomllib.loads(METHODS.read_text(encoding="utf-8"))


def _methods(to_docs: str) -> str:
    lines = ["| `--method` | in Python | what trains | paper |", "|---|---|---|---|"]
    for name, row in methods().items():
        link = f"[`{name}`]({to_docs}methods/{row['page']}.md)"
        paper = f"[{row['paper']}](https://arxiv.org/abs/{row['paper']})" if row["paper"] else ""
        lines.append(f"| {link} | `{row['python']}` | {row['trains']} | {paper} |")
    return "\n".join(lines)


def _measurements() -> dict[str, str]:
    """By name, the tables of `measured.json`: a row is a list of cells, the first row the head."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    return {name: _table(each["table"]) for name, each in measured.items() if "table" in each}


def _table(rows: list[list[str]]) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit("\n".join(["stale; run python docs/generate.py:", *stale()]) if stale() else 0)
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
