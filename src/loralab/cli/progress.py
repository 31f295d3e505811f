"""Progress on stderr, once a piece of work turns out to be long: one line that changes in a terminal, a line now and
then elsewhere.

It is written only when it is told of progress, never by a thread of its own (as rich's displays are), which would
disturb what `bench` measures.
"""

import shutil
import sys
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TextIO

from loralab.progress import Work

PATIENCE = 3.0
"""Seconds of work before anything is shown."""
REDRAWN, LINE = 0.2, 15.0
"""Seconds between two states in a terminal, and between two lines elsewhere."""
ERASE = "\r\x1b[K"


class ProgressLine:
    """Shows how far the work at hand is."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = monotonic) -> None:
        self._stream, self._clock = stream or sys.stderr, clock
        self._live = self._stream.isatty()
        self._begun: float | None = None
        self._spoke = 0.0
        self._drawn = False

    def __call__(self, at_hand: Sequence[Work]) -> None:
        """Show it, if it is time."""
        now = self._clock()
        if not at_hand:
            self.erase()
            self._begun = None
        elif self._begun is None:
            self._begun = self._spoke = now
            if _is_announced(at_hand):
                self._show(at_hand[-1].what)
        elif now - self._begun >= PATIENCE and now - self._spoke >= (REDRAWN if self._live else LINE):
            self._spoke = now
            self._show(_described(at_hand, now - self._begun))

    def erase(self) -> None:
        """Take the line away."""
        if self._drawn:
            self._stream.write(ERASE)
            self._stream.flush()
            self._drawn = False

    def _show(self, text: str) -> None:
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"{ERASE}{text[:width]}")
            self._drawn = True
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()


_LINES: list[ProgressLine] = []


def progress_line() -> ProgressLine:
    """The one of this process; what is said on stderr takes its place."""
    _LINES[:] = [ProgressLine()]
    return _LINES[0]


def erase_progress() -> None:
    """Take the line away, so that something else can be said in its place."""
    for line in _LINES:
        line.erase()


def _is_announced(at_hand: Sequence[Work]) -> bool:
    return at_hand[-1].total == 1


def _described(at_hand: Sequence[Work], seconds: float) -> str:
    """`ranks 2/5, examples 128/256, about 2 min left`."""
    counted = ", ".join(map(_counted, at_hand))
    share = _share(at_hand)
    return f"{counted}, about {_duration(seconds * (1 - share) / share)} left" if share > 0 else counted


def _counted(work: Work) -> str:
    return work.what if work.total == 1 else f"{work.what} {min(work.done + 1, work.total)}/{work.total}"


def _share(at_hand: Sequence[Work]) -> float:
    """How much of the outermost work is done, with what is done of the item at hand."""
    share = 0.0
    for work in reversed(at_hand):
        share = min(1.0, (work.done + share) / max(1, work.total))
    return share


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
