"""Time every contender in turn, round after round: whatever else the machine does then hits all of them."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import TypeVar

import torch
from torch import nn

from loralab.experiments.latency.contenders import Contender
from loralab.progress import tracked

Item = TypeVar("Item")
Round = Mapping[Contender, float]
"""Milliseconds of each contender's forward pass in one round: the median of its repeats."""


def order_in_round(items: Sequence[Item], number: int) -> list[Item]:
    """The items from the `number`-th on, around the end; backwards in every other round.

    So nobody is always first, and nobody always follows the same one.
    """
    start = number % len(items)
    turned = [*items[start:], *items[:start]]
    return turned[::-1] if number % 2 else turned


def time_rounds(
    model: nn.Module, call: Callable[[], object], among: Sequence[Contender], rounds: int, repeats: int
) -> list[Round]:
    """Milliseconds by contender, for each round; a pass of each comes before all that counts."""
    with _no_collections():
        _time_round(model, call, among, 1)
        numbers = tracked(range(rounds), "rounds")
        return [_time_round(model, call, order_in_round(among, number), repeats) for number in numbers]


def _time_round(model: nn.Module, call: Callable[[], object], order: Sequence[Contender], repeats: int) -> Round:
    milliseconds = {}
    for contender in tracked(order, "contenders"):
        with contender.standing(model):
            gc.collect()
            call()
            milliseconds[contender] = median(_milliseconds(call) for _ in range(repeats))
    return milliseconds


@contextmanager
def _no_collections() -> Iterator[None]:
    """Python collects garbage only when asked to within this block, and looks only at what came since."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def _milliseconds(call: Callable[[], object]) -> float:
    _wait()
    start = time.perf_counter()
    call()
    _wait()
    return 1000 * (time.perf_counter() - start)


def _wait() -> None:
    """Until an accelerator has done what it was given; a CPU has done so when a call returns."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
