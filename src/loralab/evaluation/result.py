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
    loss: float
    """Nats per target token over the whole split, every token with the same weight; for classes nats per example,
    for values the mean squared error.
    """
    metrics: dict[str, float]
    """By the names of the contract: 0–100, and `perplexity`, e to the loss."""
    samples: tuple[Sample, ...]
    """With generation, every example's text in the order of the split; else none."""
    truncated: int
    """Examples that were cut to fit."""
    notes: tuple[str, ...]
    """Sentences for the log."""
