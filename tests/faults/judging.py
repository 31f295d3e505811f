"""What is asked of whoever reads hostile input: an error of ours or an answer, soon, in little memory, and no more.

A reader is run under a judge, which hears every operation on files and every process and connection that is begun.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from hypothesis import HealthCheck, seed, settings

from loralab.errors import LoralabError

LONGEST = 10
"""Seconds of waiting, or of the processor."""
TICKS = 10
"""Into which they are parted. A process that is stopped for a while (the whole machine sleeps, or somebody measures
beside) hears one when it goes on, and has not waited for the others."""
LONGEST_MESSAGE = 4100
"""Characters."""
LARGEST = 4
"""Times the input, beside a constant."""
CONSTANT = 160 * 2**20
"""Bytes: what the libraries allocate whatever they read."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = frozenset({
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
    "shutil.move", "shutil.rmtree",
})  # fmt: skip
RUNS = frozenset({
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pickle.find_class",
    "socket.connect", "subprocess.Popen", "urllib.Request",
})  # fmt: skip
Answer = TypeVar("Answer")
Test = TypeVar("Test", bound=Callable[..., None])
SEED = os.environ.get("FAULTS_SEED")


class Hang(BaseException):
    """It took too long; no handler of exceptions takes it for its own."""


class Watch:
    """What happened since it was told to listen; there is one, because an audit hook cannot be taken away."""

    def __init__(self) -> None:
        self.writable: str | None = None
        self.seen: list[str] = []
        self.is_installed = False

    @contextmanager
    def over(self, writable: Path) -> Iterator[list[str]]:
        """Everything forbidden that happens within the block, in words."""
        if not self.is_installed:
            sys.addaudithook(self._hear)
            self.is_installed = True
        self.writable, self.seen = str(writable), []
        try:
            yield self.seen
        finally:
            self.writable = None

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.writable is None:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if event in RUNS or ((event in CHANGES or writes) and self._is_outside(arguments)):
            self.seen.append(f"{event} {arguments[:2]}")

    def _is_outside(self, arguments: tuple[Any, ...]) -> bool:
        paths = [os.fspath(each) for each in arguments if isinstance(each, str | os.PathLike)]
        absolute = [path for path in paths if os.path.isabs(path) and not path.startswith("/dev/")]
        return any(os.path.commonpath([path, str(self.writable)]) != self.writable for path in absolute)


WATCH = Watch()


@contextmanager
def soon() -> Iterator[None]:
    """An error for what takes longer than it may."""
    began, ticks = time.process_time(), 0

    def tick(number: int, frame: FrameType | None) -> None:
        nonlocal ticks
        ticks += 1
        if ticks >= TICKS or time.process_time() - began > LONGEST:
            raise Hang(f"it takes more than {LONGEST} seconds")

    before = signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, LONGEST / TICKS, LONGEST / TICKS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


@contextmanager
def little_memory(size: int) -> Iterator[None]:
    """An error for a peak beyond what an input of this size may take; where the system tells."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    except OSError:
        yield
        return
    before = _memory("VmRSS:")
    yield
    peak = _memory("VmHWM:") - before
    assert peak <= LARGEST * size + CONSTANT, f"{peak >> 20} MiB for an input of {size} bytes"


def judged(read: Callable[[], Answer], size: int, writable: Path) -> Answer | LoralabError:
    """What it gives, or the error of ours that it raises; anything else that it does is an AssertionError."""
    answer: Answer | LoralabError
    with little_memory(size), soon(), WATCH.over(writable) as seen:
        try:
            answer = read()
        except LoralabError as error:
            answer = error
    assert not seen, seen
    if isinstance(answer, LoralabError):
        assert len(str(answer)) > 20, f"{answer!r} says too little"
        assert len(str(answer)) < LONGEST_MESSAGE, f"{len(str(answer))} characters: {str(answer)[:1000]}"
    return answer


def size_of(folder: Path) -> int:
    """Bytes of all files below it."""
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())


def cases(number: int) -> settings:
    """So many examples, the same ones every time unless FAULTS_SEED is set."""
    return settings(
        max_examples=number, derandomize=SEED is None, deadline=None, database=None, print_blob=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def seeded(test: Test) -> Test:
    """With other examples where FAULTS_SEED says which."""
    return seed(int(SEED))(test) if SEED is not None else test
