"""Locks that end with the process that holds them, however it ends.

They are `flock`'s: advisory, and of an open file, so that no clock and no process number is asked. Where there are none
(Windows, some network file systems) nothing is locked, and two processes must not write one folder. On a network file
system whose locks stay on their machine (`nolock`, `local_lock`), two machines must not either.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loralab.errors import OutputError

if sys.platform != "win32":
    import fcntl

LOCK_NAME = ".loralab-lock"
"""In a folder while somebody writes there; a process that is killed leaves the file, but not the lock."""

_HELD: dict[Path, int] = {}
"""The folders that this process holds → by which thread."""


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file without waiting: whether that succeeded, or None where the system has no such locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def wait_for_lock(descriptor: int) -> None:
    """Lock an open file as soon as nobody else does; at once where the system has no such locks."""
    if sys.platform != "win32":
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within this block nobody else writes the folder, which must exist. It may be entered again by the same thread.

    Raises OutputError naming the process that is at work there, and for a folder that cannot be written.
    """
    place, thread = folder.resolve(), threading.get_ident()
    if _HELD.get(place) == thread:
        yield
        return
    descriptor = _acquire(place, folder)
    _HELD[place] = thread
    try:
        yield
    finally:
        _HELD.pop(place, None)
        if is_at(descriptor, place / LOCK_NAME):
            (place / LOCK_NAME).unlink(missing_ok=True)
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether this thread holds the folder already."""
    return _HELD.get(folder.resolve()) == threading.get_ident()


def is_at(descriptor: int, path: Path) -> bool:
    """Whether what is open is still what lies at the path: another process may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _acquire(place: Path, folder: Path) -> int:
    path = place / LOCK_NAME
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as problem:
            raise OutputError(
                f"{folder} was to be written, but: {problem.strerror}; nothing there was changed. Make it writable, or "
                "choose another place"
            ) from problem
        if try_lock(descriptor) is False:
            process = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise OutputError(
                f"{folder} is in use: {f'process {process}' if process else 'another process'} is writing there; wait "
                "for it or end it, or choose another place"
            )
        if is_at(descriptor, path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            return descriptor
        os.close(descriptor)  # who held it before took it away
