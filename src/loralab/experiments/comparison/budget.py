"""Equal budgets: the size of a method whose trainable parameters are nearest to a number. Knows nothing of models."""

from collections.abc import Callable

from loralab.errors import SpecError

Count = Callable[[str, int], int | None]
"""Trainable parameters of a method at a size, the head apart; None for a size that the model cannot take. It grows with
the size."""

LARGEST = 1 << 20
"""No size is looked for beyond."""


def nearest_size(count: Count, method: str, budget: int) -> int:
    """The size from 1 whose count is nearest to `budget`; of two as near, the smaller one.

    Raises SpecError if the method cannot be counted even at size 1.
    """
    if count(method, 1) is None:
        raise SpecError(f"match_params: the model cannot take {method}, not even at size 1")
    below, above = _bracket(count, method, budget)
    while above - below > 1:
        middle = (below + above) // 2
        found = count(method, middle)
        if found is not None and found <= budget:
            below = middle
        else:
            above = middle
    return min((below, above), key=lambda size: _miss(count(method, size), budget))


def _bracket(count: Count, method: str, budget: int) -> tuple[int, int]:
    """Sizes (below, above) between which the budget is crossed, or the model's limit is: found by doubling."""
    below = above = 1
    while above < LARGEST:
        found = count(method, above)
        if found is None or found > budget:
            break
        below, above = above, 2 * above
    return below, above


def _miss(found: int | None, budget: int) -> float:
    return float("inf") if found is None else abs(found - budget)
