"""The learning rate over a run, as a pure function of the step (counted from 1).

warmup:    step / (warmup + 1)                for the first `warmup` steps
linear:    1 − t,  cosine: (1 + cos πt)/2,  constant: 1,   with t from 0 towards 1 over the rest
"""

import math
from collections.abc import Callable

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda t: 1 - t,
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
    "constant": lambda t: 1.0,
}
"""name -> the factor at the share t of the steps after the warmup."""


def warmup_steps(warmup: float, total: int) -> int:
    """`warmup` as a number of steps: a share of `total` (rounded up) if below 1, else a count; never all of them."""
    steps = math.ceil(warmup * total) if warmup < 1 else int(warmup)
    return min(steps, total - 1)


def rate_factor(step: int, total: int, warmup: int, shape: str) -> float:
    """What to multiply the learning rate with at `step` (from 1) of `total`; above 0 at every step."""
    if step <= warmup:
        return step / (warmup + 1)
    return SHAPES[shape]((step - 1 - warmup) / (total - warmup))
