"""One number of a model on a task, taken again and again while something about the model is changed."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from loralab.errors import DataError, SpecError
from loralab.evaluation.evaluate import evaluate
from loralab.evaluation.few import few_examples
from loralab.generation.config import GenerationConfig
from loralab.metrics.scores import higher_is_better
from loralab.tasks.encoding.encode import Processor
from loralab.tasks.task import Task

OF_TARGETS = ("loss", "perplexity")
"""Metrics of a language model that need no text to be generated."""
SLOW = 60.0
"""Seconds of all measurements together; where they take longer, the user is told before."""


@dataclass
class Measurement:
    """What is measured: a metric of the task, on the first `limit` examples of a split."""

    model: PreTrainedModel
    processor: Processor
    task: Task
    split: str
    limit: int | None
    metric: str
    generation: GenerationConfig
    max_length: int = 512
    say: Callable[[str], None] = print
    examples: int = field(default=0, init=False)
    """How many there are; known after the first measurement."""
    seconds: float = field(default=0.0, init=False)
    """That the last one took."""

    def __post_init__(self) -> None:
        known = [*OF_TARGETS, *self.task.metrics] if self.task.kind == "generation" else ["loss", *self.task.metrics]
        if self.metric not in known:
            raise SpecError(f"task {self.task.name} has no metric {self.metric!r}; it has {', '.join(known)}")

    def __call__(self) -> float:
        """The metric of the model as it is now. Raises what `evaluate` raises, and DataError for a split without
        labels or a metric whose package is not installed.
        """
        start = time.perf_counter()
        evaluation = evaluate(
            self.model,
            self.processor,
            self.task,
            self.split,
            limit=self.limit,
            generate=self.task.kind == "generation" and self.metric not in OF_TARGETS,
            generation=self.generation,
            batch_size=self.generation.batch_size,
            max_length=self.max_length,
        )
        self.examples, self.seconds = evaluation.examples, time.perf_counter() - start
        value = evaluation.loss if self.metric == "loss" else evaluation.metrics.get(self.metric)
        if value is None:
            why = "; ".join(evaluation.notes) or "the split has no labels"
            raise DataError(f"{self.metric} of split {evaluation.split} of task {self.task.name} is not there: {why}")
        return value

    def said(self) -> dict[str, Any]:
        """What was measured on what, as the analyses write it."""
        return {"task": self.task.name, "split": self.split, "examples": self.examples, "metric": self.metric}

    def loose(self) -> tuple[str, ...]:
        """A sentence where so few examples were measured that the figures, and what follows from them, are loose."""
        return few_examples(self.examples)

    def announce(self, count: int) -> None:
        """Say how long so many more measurements will take, where that is long."""
        if count * self.seconds > SLOW:
            self.say(f"{count} measurements of {self.seconds:.0f} s each: about {count * self.seconds / 60:.0f} min")

    def gain(self, start: float, value: float) -> float:
        """How much better `value` is than `start`, whichever way the metric points."""
        return value - start if higher_is_better(self.metric) else start - value


def default_metric(task: Task) -> str:
    """The loss of a language model; of labels what chooses the best adapter."""
    return "loss" if task.kind == "generation" else task.metrics[0]
