"""Drafts: the temporary files and folders in which something is written before it takes its place.

A draft lies beside what it is for, or in it, and its name begins with a full stop, so that nothing takes it for a
result. While it is written its process holds a lock on it; what a killed process left behind is known by the lock that
nobody holds, and the next writer of the same place removes it.
"""

import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loralab.errors import OutputError
from loralab.files.locks import LOCK_NAME, is_at, try_lock

PREFIX = ".loralab-"
"""How every temporary name of ours begins."""
COMMIT_NAME = f"{PREFIX}commit"
"""Changes of a folder that are whole and on their way into it (`commit.py`)."""
_LONGEST = 150
"""Bytes of a name that a draft's is made with."""
_TAIL = "[a-z0-9_]" * 8


@contextmanager
def draft_folder(parent: Path, name: str) -> Iterator[Path]:
    """An empty folder in `parent` for what will be called `name`; what of it is still there at the end is removed."""
    remove_abandoned(parent, name)
    path, descriptor = _new_folder(parent, name)
    try:
        path.chmod(0o777 & ~_umask())
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        _close(descriptor)


@contextmanager
def draft_file(parent: Path, name: str) -> Iterator[Path]:
    """An empty file in `parent` for what will be called `name`; if it is still there at the end, it is removed."""
    remove_abandoned(parent, name)
    path, descriptor = _new_file(parent, name)
    try:
        path.chmod(0o666 & ~_umask())
        yield path
    finally:
        path.unlink(missing_ok=True)
        _close(descriptor)


def remove_abandoned(parent: Path, name: str | None = None) -> None:
    """Remove the drafts for `name`, or all, that killed processes left in `parent`."""
    begin = glob.escape(str(parent / (PREFIX if name is None else _prefix(name))))
    for found in glob.glob(f"{begin}{'*' if name is None else _TAIL}", include_hidden=True):
        _remove_if_abandoned(Path(found))


def remove(path: Path) -> None:
    """Remove a file, a link or a folder in one step, so that never a part of it is there; nothing is as well."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    with draft_folder(path.parent, path.name) as draft:
        path.rename(draft / "old")


def is_ours(name: str) -> bool:
    """Whether a name is one of a draft or a lock."""
    return name.startswith(PREFIX)


def is_vacant(folder: Path) -> bool:
    """Whether a folder holds nothing but what a killed process, or a writer's lock, left there."""
    return all(is_ours(each.name) and each.name != COMMIT_NAME for each in folder.iterdir())


def flush_file(path: Path) -> None:
    """Wait until the file is on the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def flush_tree(folder: Path) -> None:
    """Wait until all that is in the folder is on the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if not Path(parent, name).is_symlink():
                flush_file(Path(parent, name))
        flush_folder(Path(parent))


def flush_folder(folder: Path) -> None:
    """Wait until a rename in this folder is on the disk, where the system can say so."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, problem: OSError) -> OutputError:
    """What to raise where writing `path` failed."""
    if isinstance(problem, OutputError):
        return problem
    reason = problem.strerror or str(problem)
    return OutputError(
        f"{path} was to be written, but: {reason}; nothing there was changed. Free space or choose another place"
    )


def _prefix(name: str) -> str:
    return f"{PREFIX}{name.encode()[:_LONGEST].decode(errors='ignore')}-"


def _new_folder(parent: Path, name: str) -> tuple[Path, int | None]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_prefix(name), dir=parent))
        if sys.platform == "win32":
            return path, None
        descriptor = os.open(path, os.O_RDONLY)
        if try_lock(descriptor) is not False and is_at(descriptor, path):
            return path, descriptor
        os.close(descriptor)  # somebody took it for abandoned before it was locked


def _new_file(parent: Path, name: str) -> tuple[Path, int | None]:
    while True:
        descriptor, text = tempfile.mkstemp(prefix=_prefix(name), dir=parent)
        if sys.platform == "win32":
            os.close(descriptor)
            return Path(text), None
        if try_lock(descriptor) is not False and is_at(descriptor, Path(text)):
            return Path(text), descriptor
        os.close(descriptor)


def _remove_if_abandoned(path: Path) -> None:
    """Where the system has no locks nothing is known of a draft's writer, and it stays."""
    if sys.platform == "win32" or path.name in (LOCK_NAME, COMMIT_NAME):
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        if try_lock(descriptor):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
