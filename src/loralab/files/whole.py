"""Files and folders written whole and moved into place: a reader sees the old one or the new one, never half of one,
and a process that is killed at any moment leaves the one or the other.

Everything goes first into a draft (`drafts.py`) on the same disk, is flushed to the disk, and only then takes the name
it is meant for: a file and a new folder by one rename, a folder that replaces another by exchanging the two, several
files of one folder together (`commit.py`, which says what is done where a system cannot exchange). Knows nothing of
what is written.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loralab.errors import AdapterFileError, NotFoundError, OutputError
from loralab.files.commit import NEW, can_be_exchanged, make_changes, settle
from loralab.files.drafts import (
    cannot_write,
    draft_file,
    draft_folder,
    flush_file,
    flush_folder,
    flush_tree,
    is_ours,
    is_vacant,
    remove_abandoned,
)
from loralab.files.locks import locked

LARGEST_CONFIG = 64 * 2**20
"""Bytes of a JSON file; more are some other file's."""

_REPLACED: ContextVar[Path | None] = ContextVar("replaced", default=None)
"""The place that may be replaced, with what is below it: only who asked for it says so, by `replacing`."""


@contextmanager
def replacing(path: Path) -> Iterator[None]:
    """Within this block `whole_folder` may put a new folder into the place of the one at `path`, or below it."""
    token = _REPLACED.set(path.absolute())
    try:
        yield
    finally:
        _REPLACED.reset(token)


def may_replace(path: Path) -> bool:
    """Whether whoever asked for this gave leave to replace what is there."""
    replaced = _REPLACED.get()
    return replaced is not None and (path.absolute() == replaced or replaced in path.absolute().parents)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it becomes `path`, on any failure it is removed.

    Raises OutputError if the disk is full or the place is not writable; what was at `path` is then as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft_file(path.parent, path.name) as draft:
            yield draft
            flush_file(draft)
            draft.replace(path)
            flush_folder(path.parent)
    except OSError as problem:
        raise cannot_write(path, problem) from problem


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it becomes `path`, on any failure it is removed.

    `path` must not exist yet or be an empty folder (OutputError otherwise), but within `replacing`: what was there is
    then removed when the new one has its place. Raises OutputError if the disk is full or the place is not writable.
    """
    try:
        refuse_occupied(path)
        if path.is_dir():
            with whole_changes(path) as changes:
                yield changes.new
                changes.replace_all()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft_folder(path.parent, path.name) as draft:
            yield draft
            flush_tree(draft)
            draft.rename(path)
            flush_folder(path.parent)
    except OSError as problem:
        raise cannot_write(path, problem) from problem


@dataclass
class FolderChanges:
    """Entries of a folder that change together: those that lie in `new` in the end, and those that are `removed`."""

    folder: Path
    new: Path
    """To be filled; what is in it takes the place of what has its name."""
    removed: set[str] = field(default_factory=set)

    def remove(self, *names: str) -> None:
        """Entries that go, where they are there."""
        self.removed.update(names)

    def replace_all(self) -> None:
        """All that is in the folder now goes."""
        self.removed.update(each.name for each in self.folder.iterdir() if not is_ours(each.name))


@contextmanager
def whole_changes(folder: Path, marker: str | None = None) -> Iterator[FolderChanges]:
    """Change several entries of a folder, which is made where there is none: all of them or none.

    `marker` is the entry by which other programs know the folder for what it is. Raises OutputError while another
    process writes there, if the disk is full or the place is not writable; the folder is then as it was.
    """
    place = folder.resolve()
    try:
        if not place.exists():
            with whole_folder(place) as draft:
                yield FolderChanges(draft, draft)
            return
        alone = can_be_exchanged(place)
        with locked(place):
            settle(place)
            remove_abandoned(place)
            with draft_folder(place, "changes") as draft:
                (draft / NEW).mkdir()
                changes = FolderChanges(place, draft / NEW)
                yield changes
                make_changes(draft, place, changes.removed, marker, alone)
    except OSError as problem:
        raise cannot_write(folder, problem) from problem


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole, with sorted keys."""
    write_text(path, json_text(content, sort_keys=True))


def json_text(content: Any, sort_keys: bool = False) -> str:
    """JSON with two spaces of indent and a last line end, and never NaN or infinity (ValueError)."""
    return json.dumps(content, indent=2, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; NotFoundError where there is no file, AdapterFileError for any other content."""
    if not path.is_file():
        raise NotFoundError(f"{path}: there is no such file")
    if path.stat().st_size > LARGEST_CONFIG:
        raise AdapterFileError(f"{path} has {path.stat().st_size} bytes, which no configuration has; check the folder")
    try:
        content = _parsed(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise AdapterFileError(f"{path} is not JSON: {problem}; get the file again") from problem
    except RecursionError as problem:
        raise AdapterFileError(f"{path} nests deeper than any configuration does; get the file again") from problem
    if not isinstance(content, dict):
        raise AdapterFileError(f"{path} should hold a JSON object, but holds {type(content).__name__}")
    strange = [f"{name} is {value}" for name, value in _not_finite(content)]
    if strange:
        listing = "; ".join(strange[:3])
        raise AdapterFileError(f"{path} holds what JSON has no number for: {listing}; get it again")
    return content


def _parsed(text: str) -> Any:
    """The content of JSON. ValueError where readers would differ: a key that is there twice, half a character."""
    content = json.loads(text, object_pairs_hook=_once)
    if "\\ud" in text.lower():
        json.dumps(content, ensure_ascii=False).encode()
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r} is there twice")
    return content


def _not_finite(value: object, name: str = "") -> Iterator[tuple[str, float]]:
    """NaN and infinities, which Python reads and writes though JSON has none: each with the keys that lead to it."""
    if isinstance(value, float) and not math.isfinite(value):
        yield name, value
    if isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _not_finite(each, f"{name}.{key}" if name else str(key))


def refuse_occupied(path: Path) -> None:
    """OutputError if something is at `path` that a new folder would overwrite, and may not."""
    if path.is_dir() and (may_replace(path) or is_vacant(path)):
        return
    if path.exists() or path.is_symlink():
        raise OutputError(
            f"{path} exists already, and a new folder was to be made there; name another place or remove it"
        )
