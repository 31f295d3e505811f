"""Ctrl-C and SIGTERM during a run: heard at once, obeyed where nothing is half done.

The first one lets the step end, whose state becomes a checkpoint; while something is only measured it ends that. The
second one ends everything where it is. Signals can be set in the main thread alone: elsewhere they do what they did.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

HEARD = (signal.SIGINT, signal.SIGTERM)
GOING = b"\nstopping after this step, with a checkpoint (once more: at once, without)\n"


class RunStopped(KeyboardInterrupt):
    """A run was stopped from outside; the message says where it stands and how it goes on."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number

    @property
    def status(self) -> int:
        """What a program exits with: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number


class Asked(BaseException):
    """Raised where a run may be left: it was asked to stop by signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interruption:
    """Whether a run was asked to stop."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._only_looks = False

    def hear(self, number: int, frame: FrameType | None) -> None:
        """The handler of a signal."""
        if self.number is not None:
            raise RunStopped("stopped at once, in the middle of a step", number)
        self.number = number
        if self._only_looks:
            raise Asked(number)
        with suppress(OSError):
            os.write(2, GOING)  # a print from here could meet another one halfway

    def check(self) -> None:
        """Raises `Asked` if there was a signal: called where nothing is half done."""
        if self.number is not None:
            raise Asked(self.number)

    @contextmanager
    def only_looking(self) -> Iterator[None]:
        """Within this block nothing changes and nothing is written: a signal ends it with `Asked`."""
        self.check()
        self._only_looks = True
        try:
            yield
        finally:
            self._only_looks = False


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Within this block the signals are heard by what it yields; afterwards they do what they did before.

    One that is ignored, as for a process in the background, stays ignored.
    """
    heard = Interruption()
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in HEARD:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, heard.hear)
    try:
        yield heard
    finally:
        for heard_before, handler in before.items():
            signal.signal(heard_before, handler)
