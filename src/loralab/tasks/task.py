"""What a task is, whatever its data set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from loralab.errors import DataError, SpecError
from loralab.metrics.scores import TextScore
from loralab.metrics.suites import score_rouge
from loralab.tasks.example import Examples
from loralab.tasks.outputs import LINES, OutputFormat
from loralab.tasks.preference import DPO, PreferenceObjective
from loralab.tasks.splits import SPLIT_NAMES

Kind = Literal["generation", "preference", "classification", "regression"]

ROUGE = ("rouge_1", "rouge_2", "rouge_l")
"""What `score_rouge` gives: the metrics of generated text, for every task that has none of its own."""

ALIASES = {name: split for name, split in SPLIT_NAMES.items() if name != split}
"""Names that users give a split as well; also as the beginning of one (dev_matched)."""


@dataclass(frozen=True)
class Task:
    """A data set with its splits, its kind and its metrics."""

    name: str
    kind: Kind
    splits: Mapping[str, Callable[[], Examples]]
    """For each split, what reads it; nothing is read before it is needed."""
    metrics: tuple[str, ...]
    """Names of what is measured, the one that chooses the best adapter first: of labels in `LABEL_METRICS`, of texts
    what `score_texts` gives."""
    labels: tuple[str, ...] = ()
    """The names of the classes in the order of their indices; empty unless this is a classification."""
    notes: tuple[str, ...] = ()
    """Sentences for the log: how the data were split."""
    score_texts: TextScore = score_rouge
    """The scores of generated texts against the examples' references."""
    score_aligned: TextScore | None = None
    """The scores against line-aligned files of references, where the official script treats those otherwise."""
    outputs: OutputFormat = LINES
    """How a system's outputs stand in a file."""
    answers: Mapping[str, Callable[[], Examples]] = field(default_factory=dict)
    """For splits without all their inputs (WikiSQL without tables): what reads enough to score outputs against."""
    files: tuple[Path, ...] = ()
    """The data files that it is read from; none where the data come from the Hub, or are the task's own."""
    preference: PreferenceObjective = DPO
    """How the loss of pairs of answers is measured."""
    split_note: str = ""
    """Which of the notes says how a single file was split."""
    inputs: Literal["text", "images"] = "text"
    """What the model looks at: it decides, beside `kind`, which kind of model the task needs."""

    def __repr__(self) -> str:
        """In short, and without reading any of it."""
        return f"Task({self.name!r}: {self.kind}, splits {', '.join(self.splits)})"

    @property
    def model_kind(self) -> str:
        """The kind of model that it needs, as `loralab.models.load` calls it."""
        if self.inputs == "images":
            return "image-classification"
        return "generation" if self.kind in ("generation", "preference") else "sequence-classification"

    def examples(self, split: str, limit: int | None = None) -> Examples:
        """The examples of a split, in the order of its file; with `limit` only the first so many.

        Raises `SpecError` for a split that the task does not have or a limit below 1, and `DataError` where
        there is nothing in it.
        """
        name = self.split_named(split)
        if limit is not None and limit < 1:
            raise SpecError(f"limit {limit}: at least one example is needed")
        examples = self.splits[name]()
        if not examples:
            hint = f" ({'; '.join(self.notes)})" if self.notes else ""
            raise DataError(
                f"task {self.name}: the split {name!r} is empty{hint}; give more data, or a file of its own"
            )
        return examples[:limit]

    def references(self, split: str) -> Examples:
        """The examples of a split to score outputs against, also where they lack what a model would be asked."""
        name = self.split_named(split)
        return self.answers[name]() if name in self.answers else self.examples(name)

    def split_named(self, split: str) -> str:
        """The split's own name, if it was called by an alias. Raises `SpecError` for one that is not there."""
        if split in self.splits:
            return split
        for alias, name in ALIASES.items():
            if split.startswith(alias) and name + split.removeprefix(alias) in self.splits:
                return name + split.removeprefix(alias)
        raise SpecError(f"task {self.name} has no split {split!r}; it has {', '.join(self.splits)}")
