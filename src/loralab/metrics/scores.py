"""What metrics share: predictions paired with references, figures by name, and which way each figure points."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from loralab.errors import DataError

LOWER_IS_BETTER = ("loss", "perplexity", "ter", "unparsable")
"""Metrics that measure an error."""

_FROM_ZERO = ("loss", "nist", "ter", "unparsable")
_OTHERS = {"perplexity": (1.0, math.inf), "cider": (0.0, 10.0), "reward_margin": (-math.inf, math.inf)}
_CORRELATIONS = ("matthews", "pearson", "spearman")


@dataclass(frozen=True)
class Scores:
    """Figures of many texts together."""

    metrics: dict[str, float]
    """By name, in the units of docs/reference/metrics.md."""
    notes: tuple[str, ...] = ()
    """Sentences for the log: which variant, what was left out and why."""


TextScore = Callable[[Sequence[str], Sequence[Sequence[str]]], Scores]
"""The texts, and each one's references -> their scores. Raises `DataError` where the two do not pair up."""


def higher_is_better(name: str) -> bool:
    """Whether a larger value of the metric `name` is the better one."""
    return name not in LOWER_IS_BETTER


def bounds(name: str) -> tuple[float, float]:
    """The smallest and the largest value that the metric `name` can have, in the units of docs/reference/metrics.md."""
    if name in _FROM_ZERO:
        return 0.0, math.inf
    if name in _OTHERS:
        return _OTHERS[name]
    return (-100.0 if name in _CORRELATIONS else 0.0), 100.0


def within_bounds(name: str, middle: float, spread: float) -> tuple[float, float]:
    """middle ± spread as an interval that ends where the metric does, and holds `middle` in any case."""
    low, high = bounds(name)
    return min(middle, max(low, middle - spread)), max(middle, min(high, middle + spread))


def level(mean: float, sd: float, other_mean: float, other_sd: float) -> bool:
    """Whether two means over seeds differ by no more than their seeds do: |m₁ − m₂| ≤ √(s₁² + s₂²)."""
    return abs(mean - other_mean) <= math.hypot(sd, other_sd)


def check_pairs(predictions: Sequence[Any], references: Sequence[Any]) -> None:
    """Raises `DataError` for different numbers of both, for none at all, or for an empty list of references."""
    if len(predictions) != len(references):
        raise DataError(f"{len(predictions)} predictions for {len(references)} references; give one for each")
    if not predictions:
        raise DataError("no predictions to score; give at least one")
    for number, reference in enumerate(references, start=1):
        if isinstance(reference, list | tuple) and not reference:
            raise DataError(f"prediction {number} has no reference to compare with; give at least one")


def present_references(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[str]]:
    """Each prediction's references without the blank ones, which stand for «no such reference».

    Raises `DataError` where predictions and references do not pair up, or all references of one are blank.
    """
    check_pairs(predictions, references)
    present = [[reference for reference in each if reference.strip()] for each in references]
    for number, each in enumerate(present, start=1):
        if not each:
            raise DataError(f"all references of prediction {number} are blank; give at least one that is not")
    return present
