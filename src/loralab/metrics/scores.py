"""What a judgement of texts is: figures by name, and what should be known about them. No metric is known here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scores:
    """Figures of many texts together."""

    metrics: dict[str, float]
    """By the names and in the units of the contract."""
    notes: tuple[str, ...] = ()
    """Sentences for the log: which variant, what was left out and why."""


TextScore = Callable[[Sequence[str], Sequence[Sequence[str]]], Scores]
"""The texts, and each one's references -> their scores. Raises `DataError` where the two do not pair up."""
