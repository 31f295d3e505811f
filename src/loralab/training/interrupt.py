"""Ctrl-C, SIGTERM and the end of the terminal (SIGHUP) during a run: heard at once, obeyed where nothing is half done.

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

from loralab.processes.group import ALONE, Processes

HANG_UP = getattr(signal, "SIGHUP", None)
"""The terminal has gone; Windows has no such signal."""
HEARD = tuple(number for number in (signal.SIGINT, signal.SIGTERM, HANG_UP) if number is not None)
GOING = b"\nstopping after this step, with a checkpoint (once more: at once, without)\n"
GOING_ALL = b"\nstopping all processes after this step, with a checkpoint\n"


def print_nowhere() -> None:
    """Whoever read what this process prints has gone: from now on it goes nowhere, instead of ending the run."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        with suppress(OSError):
            os.dup2(nowhere, stream)
    os.close(nowhere)


class RunStopped(KeyboardInterrupt):
    """A run was stopped from outside; the message says where it stands and how it goes on."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number

    @property
    def status(self) -> int:
        """What a program exits with: 130 after Ctrl-C, 143 after SIGTERM, 129 where the terminal went."""
        return 128 + self.number


class Asked(BaseException):
    """Raised where a run may be left: it was asked to stop by signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interruption:
    """Whether a run was asked to stop."""

    def __init__(self, processes: Processes = ALONE) -> None:
        self.processes = processes
        self.number: int | None = None
        self._only_looks = False

    def hear(self, number: int, frame: FrameType | None) -> None:
        """The handler of a signal."""
        if self.processes.are_several and self.number is not None:
            return  # of one Ctrl-C each process hears twice: from the terminal, and from who started it
        if self.number is not None:
            raise RunStopped("stopped at once, in the middle of a step", number)
        self.number = number
        if number == HANG_UP:
            print_nowhere()
        if self._only_looks:
            raise Asked(number)
        with suppress(OSError):
            if self.processes.is_first:
                os.write(2, GOING_ALL if self.processes.are_several else GOING)  # a print could meet another halfway

    def check(self) -> None:
        """Raises `Asked` if there was a signal, in any process of the run: called where nothing is half done."""
        number = self.processes.largest(self.number or 0)
        if number:
            raise Asked(number)

    def check_here(self) -> None:
        """The same of this process alone, where its work is shared out and the others will be told."""
        if self.number is not None:
            raise Asked(self.number)

    @contextmanager
    def only_looking(self) -> Iterator[None]:
        """Within this block nothing changes and nothing is written: a signal ends it with `Asked`; of several
        processes at the next item that is shared out, so that all leave it together.
        """
        self.check()
        self._only_looks = not self.processes.are_several
        try:
            yield
        finally:
            self._only_looks = False


@contextmanager
def interruptible(processes: Processes = ALONE) -> Iterator[Interruption]:
    """Within this block the signals are heard by what it yields; afterwards they do what they did before.

    One that is ignored, as for a process in the background, stays ignored.
    """
    heard = Interruption(processes)
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
