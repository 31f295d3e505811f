"""Processes that are killed at a chosen moment: before each of their operations on files, one after another.

A child is forked, does what it is told, and kills itself (SIGKILL, so that nothing is tidied) before the operation of
that number. A file that was being written then is cut in half.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OPERATIONS = frozenset({
    "open", "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
})  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR
Files = dict[str, bytes]


class Killer:
    """Counts the operations below a folder, and kills this process before one of them."""

    def __init__(self, root: Path, moment: int) -> None:
        self.root, self.left = str(root), moment
        self.written: str | None = None

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook."""
        if event not in OPERATIONS or not self._concerns(event, arguments):
            return
        if self.left == 0:
            self.left = -1
            if self.written is not None:
                os.truncate(self.written, os.stat(self.written).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        self.written = os.fspath(arguments[0]) if writes else None

    def _concerns(self, event: str, arguments: tuple[Any, ...]) -> bool:
        """Whether it is about the folder; a removal below an open folder names that by its number."""
        inside = [each for each in arguments if isinstance(each, str | os.PathLike)]
        relative = event in ("os.remove", "os.rmdir") and arguments[-1] != -1
        return relative or any(os.fspath(each).startswith(self.root) for each in inside)


def killed(action: Callable[[], object], root: Path, moment: int) -> bool:
    """Do it in a child that is killed before its operation number `moment`; False where it ended before that."""
    return _ended_by(signal.SIGKILL, lambda: sys.addaudithook(Killer(root, moment).hear), action)


def _ended_by(number: signal.Signals, arm: Callable[[], object], action: Callable[[], object]) -> bool:
    """Whether a child that arms itself and acts is ended by this signal; False where it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            arm()
            action()
            os._exit(0)
        except BaseException as error:  # noqa: BLE001  a fork must never come back
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -number), f"the child failed without {number.name}: {status}"
    return status != 0


def every_kill(
    action: Callable[[], object], root: Path, prepare: Callable[[], object], most: int = 500
) -> Iterator[int]:
    """After `prepare`, a kill before each operation in turn; yields after each."""
    for moment in range(most):
        prepare()
        if not killed(action, root, moment):
            return
        yield moment
    raise AssertionError(f"more than {most} operations")


def files_of(folder: Path) -> Files:
    """Every file below a folder by its path, but drafts and locks."""
    found = (each for each in folder.rglob("*") if each.is_file())
    names = ((each.relative_to(folder), each) for each in found)
    return {
        str(name): each.read_bytes() for name, each in names if not any(p.startswith(".loralab-") for p in name.parts)
    }


def leftovers(folder: Path) -> list[str]:
    """Drafts and locks below a folder."""
    return sorted(str(each.relative_to(folder)) for each in folder.rglob(".loralab-*"))


def operations_of(action: Callable[[], object], root: Path) -> tuple[int, float]:
    """How many operations it makes below a folder, and the seconds that it takes, in a child that is let alone."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            killer = Killer(root, sys.maxsize)
            sys.addaudithook(killer.hear)
            action()
            os.write(writer, str(sys.maxsize - killer.left).encode())
            os._exit(0)
        except BaseException as error:  # noqa: BLE001  a fork must never come back
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
    os.close(writer)
    began = time.monotonic()
    with os.fdopen(reader) as told:
        count = told.read()
    assert os.waitpid(child, 0)[1] == 0, "it fails without a kill"
    return int(count), time.monotonic() - began


def killed_after(action: Callable[[], object], seconds: float) -> bool:
    """Do it in a child that the system ends after so long, as `kill -9` does; False where it ended before that."""

    def arm() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, and no code of it runs any more
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-4))

    return _ended_by(signal.SIGALRM, arm, action)
