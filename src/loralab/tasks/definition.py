"""What a task is, whatever its data set. It knows nothing of files, models and tokenizers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from loralab.errors import DataError, SpecError
from loralab.tasks.example import Examples

Kind = Literal["generation", "classification", "regression"]

TEXT_METRICS = ("rouge_1", "rouge_2", "rouge_l")
"""Metrics of generated text, the same for every generation task until one has its own."""


@dataclass(frozen=True)
class Task:
    """A data set with its splits, its kind and its metrics."""

    name: str
    kind: Kind
    splits: Mapping[str, Callable[[], Examples]]
    """For each split, what reads it; nothing is read before it is asked for."""
    metrics: tuple[str, ...]
    """Names in the tables of `loralab.metrics.table`."""
    labels: tuple[str, ...] = ()
    """The names of the classes in the order of their indices; empty unless this is a classification."""
    notes: tuple[str, ...] = ()
    """Sentences for the log: how the data were split."""

    def examples(self, split: str, limit: int | None = None) -> Examples:
        """The examples of a split, in the order of its file; with `limit` only the first so many.

        Raises `SpecError` for a split that the task does not have or a limit below 1, and `DataError` where
        there is nothing in it.
        """
        if split not in self.splits:
            raise SpecError(f"task {self.name} has no split {split!r}; it has {', '.join(self.splits)}")
        if limit is not None and limit < 1:
            raise SpecError(f"limit {limit}: at least one example is needed")
        examples = self.splits[split]()
        if not examples:
            hint = f" ({'; '.join(self.notes)})" if self.notes else ""
            raise DataError(f"task {self.name}: the split {split!r} is empty{hint}; give more data")
        return examples[:limit]
