"""How far a long piece of work is: told by whoever does it, shown by whoever was asked to show it.

    for batch in tracked(batches, "examples"):
        ...
    with announced("converting the embedded model, once for all"):
        ...

say nothing by themselves. Within `shown_by` each finished item is told to a display, together with the work that this
one is a part of. Nothing runs beside the work: what is measured is not disturbed.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(eq=False)
class Work:
    """A piece of work: what its items are, how many there are and how many are done."""

    what: str
    total: int
    """None are counted where it is 1: what it is was announced at its beginning."""
    done: int = 0


Display = Callable[[Sequence[Work]], None]
"""Told the work at hand, the outermost first; nothing, when all of it has ended."""

_DISPLAY: ContextVar[Display | None] = ContextVar("display", default=None)
_AT_HAND: list[Work] = []


@contextmanager
def shown_by(display: Display | None) -> Iterator[None]:
    """Within this block progress is shown by this display, or by none."""
    token, before = _DISPLAY.set(display), list(_AT_HAND)
    try:
        yield
    finally:
        _DISPLAY.reset(token)
        _AT_HAND[:] = before  # an error may have left work behind


def tracked(items: Collection[Item], what: str) -> Iterator[Item]:
    """The items, one after another; each counts as done when the next one is asked for."""
    display = _DISPLAY.get()
    if display is None or len(items) < 2:  # one item is no progress
        yield from items
        return
    with _at_hand(work := Work(what, len(items)), display):
        for item in items:
            yield item
            work.done += 1
            display(_AT_HAND)


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Within this block something is done that takes long, and of which nothing can be counted: told at once."""
    display = _DISPLAY.get()
    if display is None:
        yield
        return
    with _at_hand(Work(what, 1), display):
        yield


@contextmanager
def _at_hand(work: Work, display: Display) -> Iterator[None]:
    _AT_HAND.append(work)
    try:
        display(_AT_HAND)
        yield
    finally:
        _AT_HAND[:] = [each for each in _AT_HAND if each is not work]
        if not _AT_HAND:
            display(())
