"""Successive halving (Jamieson and Talwalkar 2016; the inner loop of Hyperband, Li et al. 2018, arXiv 1603.06560).

    all settings train to the first rung; the better half goes on to the next; and so on, each rung twice as far:
    rungs at T/2ʰ, …, T/4, T/2, T of T steps, with h halvings

The schedule of every trial is that of a run of T steps, so that one that gets there is a run like any other. Pure
functions: no files, no models.
"""

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

SHORTEST_RUNG = 10
"""Steps before the first judgement: fewer say nothing."""

Name = TypeVar("Name")


def rungs_of(total: int, settings: int, halvings: int) -> tuple[int, ...]:
    """The steps at which settings are judged, the last at the end; no more halvings than leave one setting."""
    times = min(halvings, math.ceil(math.log2(settings))) if settings > 1 else 0
    return tuple(dict.fromkeys(math.ceil(total / 2**left) for left in range(times, -1, -1)))


def better_half(losses: Mapping[Name, float]) -> list[Name]:
    """The names that go on, the best first: half of them, rounded up. A loss that is not finite is the worst."""
    order = sorted(losses, key=lambda name: losses[name] if math.isfinite(losses[name]) else math.inf)
    return order[: math.ceil(len(order) / 2)]


def steps_and_looks(
    total: int, settings: int, halvings: int, share: Callable[[int], float] = float
) -> tuple[float, float]:
    """(steps, judgements) of all settings together; of several processes, of the one with the most to do: its `share`
    of so many settings."""
    steps = looks = before = 0.0
    for rung in rungs_of(total, settings, halvings):
        steps, looks, before = steps + share(settings) * (rung - before), looks + share(settings), rung
        settings = math.ceil(settings / 2)
    return steps, looks


def longest_within(
    seconds: float, step: float, look: float, settings: int, halvings: int, share: Callable[[int], float] = float
) -> int:
    """The most steps T that all of it fits into `seconds` with, where a step takes `step` and a judgement `look`; 0
    where not even one fits."""

    def cost(total: int) -> float:
        steps, looks = steps_and_looks(total, settings, halvings, share)
        return steps * step + looks * look

    below, above = 0, 1
    while cost(above) <= seconds:
        below, above = above, 2 * above
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if cost(middle) <= seconds else (below, middle)
    return below


def shortest(settings: int, halvings: int) -> int:
    """The least T whose first rung is worth a judgement."""
    times = len(rungs_of(1 << 30, settings, halvings)) - 1
    return int(SHORTEST_RUNG * 2**times)
