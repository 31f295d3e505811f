"""Files and folders written whole and moved into place: a reader sees the old one or the new one, never half of one.

Everything goes first into a temporary sibling (same disk, so that the move is one rename), is flushed to the disk,
and only then takes the name it is meant for. Knows nothing of what is written.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from loralab.errors import AdapterFileError, NotFoundError, OutputError

LARGEST_CONFIG = 64 * 2**20
"""Bytes of a JSON file; more are some other file's."""

_PREFIX = ".loralab-"
"""How temporary siblings begin; what a killed process leaves behind is recognised by it and never read."""

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


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it becomes `path`, on any failure it is removed.

    Raises OutputError if the disk is full or the place is not writable; what was at `path` is then as it was.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _sibling_file(path)
        yield temporary
        flush_file(temporary)
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as problem:
        raise _cannot_write(path, problem) from problem
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it becomes `path`, on any failure it is removed.

    `path` must not exist yet or be an empty folder (OutputError otherwise), but within `replacing`: what was there is
    then removed when the new one has its place. Raises OutputError if the disk is full or the place is not writable.
    """
    temporary = None
    try:
        refuse_occupied(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{path.name}-", dir=path.parent))
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        _flush_tree(temporary)
        _take_place(temporary, path)
        _flush_folder(path.parent)
    except OSError as problem:
        raise _cannot_write(path, problem) from problem
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _take_place(temporary: Path, path: Path) -> None:
    """Move a whole folder to its place; what is there goes aside first, and comes back if that fails."""
    if not (may_replace(path) and path.is_dir() and any(path.iterdir())):
        temporary.replace(path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{path.name}-", dir=path.parent)) / path.name
    path.replace(aside)
    try:
        temporary.replace(path)
    except OSError:
        aside.replace(path)
        raise
    finally:
        shutil.rmtree(aside.parent, ignore_errors=True)


def may_replace(path: Path) -> bool:
    """Whether whoever asked for this gave leave to replace what is there."""
    replaced = _REPLACED.get()
    return replaced is not None and (path.absolute() == replaced or replaced in path.absolute().parents)


@contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success all that is in it moves into `folder`, one after another and each
    whole, and replaces what had its name; on any failure it is removed.

    Raises OutputError if the disk is full or the place is not writable.
    """
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        yield temporary
        _flush_tree(temporary)
        for each in sorted(temporary.iterdir()):
            if each.is_dir():
                shutil.rmtree(folder / each.name, ignore_errors=True)
            each.replace(folder / each.name)
        _flush_folder(folder)
    except OSError as problem:
        raise _cannot_write(folder, problem) from problem
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


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
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise AdapterFileError(f"{path} is not JSON: {problem}; get the file again") from problem
    if not isinstance(content, dict):
        raise AdapterFileError(f"{path} should hold a JSON object, but holds {type(content).__name__}")
    strange = [f"{name} is {value}" for name, value in _not_finite(content)]
    if strange:
        listing = "; ".join(strange[:3])
        raise AdapterFileError(f"{path} holds what JSON has no number for: {listing}; get it again")
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
    if path.is_dir() and (may_replace(path) or not any(path.iterdir())):
        return
    if path.exists() or path.is_symlink():
        raise OutputError(
            f"{path} exists already, and a new folder was to be made there; name another place or remove it"
        )


def flush_file(path: Path) -> None:
    """Wait until the file is on the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _flush_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            flush_file(Path(parent, name))
        _flush_folder(Path(parent))


def _flush_folder(folder: Path) -> None:
    """Wait until a rename in this folder is on the disk, where the system can say so."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sibling_file(path: Path) -> Path:
    descriptor, name = tempfile.mkstemp(prefix=f"{_PREFIX}{path.name}-", dir=path.parent)
    os.close(descriptor)
    os.chmod(name, 0o666 & ~_umask())
    return Path(name)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _cannot_write(path: Path, problem: OSError) -> OutputError:
    if isinstance(problem, OutputError):
        return problem
    reason = problem.strerror or str(problem)
    return OutputError(
        f"{path} was to be written, but: {reason}; nothing there was changed. Free space or choose another place"
    )
