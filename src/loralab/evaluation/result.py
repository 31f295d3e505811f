"""What an evaluation finds. It knows nothing of how."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One generated text beside what was asked and what is right."""

    prompt: str
    prediction: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model on one split of a task."""

    task: str
    split: str
    examples: int
    loss: float | None
    """Nats per target token over the whole split, every token with the same weight; for classes nats per example,
    for values the mean squared error; None where the labels are not known.
    """
    metrics: dict[str, float]
    """By the names and in the units of the contract; `perplexity` is e to the loss."""
    parts: dict[str, dict[str, float]]
    """The task's metrics of each part of the split (WebNLG: seen, unseen), where it has parts."""
    samples: tuple[Sample, ...]
    """With generation, every example's text in the order of the split; else none."""
    outputs: tuple[str, ...]
    """What the model said to every example, in the order of the split: the generated text, the name of the class, or
    the value; empty for a generation task without generation.
    """
    truncated: int
    """Examples that were cut to fit."""
    notes: tuple[str, ...]
    """Sentences for the log."""
