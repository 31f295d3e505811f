"""Which task reads data of one's own at a path: rows, or files of text."""

import shlex
from pathlib import Path

from loralab.tasks.own.files import has_rows

ENDINGS = (".txt", ".text", ".md", ".markdown", ".rst")
"""Of files of text in a folder, also with .gz; a single file may have any."""


def flags_for(path: str) -> str:
    """The flags that train on what is at a path."""
    place = Path(path).expanduser()
    raw = is_text(place) or (place.is_dir() and bool(text_files(place)) and not has_rows(place))
    return f"--task {'text' if raw else 'jsonl'} --data {shlex.quote(path)}"


def is_text(path: Path) -> bool:
    """Whether the path is called as files of text are."""
    return path.name.lower().removesuffix(".gz").endswith(ENDINGS) and not path.is_dir()


def text_files(folder: Path) -> list[Path]:
    """All files of text below a folder, in the order of their names; none that is hidden or in something hidden."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if is_text(path) and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
