"""Any system's outputs against what is right: the task's metrics, over all examples and over each part of the split.

It needs no model: the outputs may come from a file.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from loralab.errors import DataError
from loralab.extras import require
from loralab.metrics.classification import LABEL_METRICS
from loralab.metrics.scores import Scores, TextScore
from loralab.tasks.example import Conversation, Document, Example, Examples, ImageExample, LabelledExample
from loralab.tasks.task import Task


@dataclass(frozen=True)
class Scored:
    """The scores of one system's outputs."""

    metrics: dict[str, float]
    """By the names of docs/reference/metrics.md."""
    parts: dict[str, dict[str, float]]
    """The scores of each part of the split (WebNLG: seen, unseen), where it has parts."""
    notes: tuple[str, ...]


def require_metrics(task: Task, examples: Examples, *, generate: bool = False) -> None:
    """Before the work: raises `MissingDependencyError` where what scores the examples' labels, or with `generate` the
    texts that are written for them, is not installed.
    """
    if generate or getattr(examples[0], "label", None) is not None:
        require("metrics", f"measuring task {task.name}")


def require_answers(task: Task, examples: Examples) -> None:
    """Raises `DataError` for examples that no output is an answer to: pairs of answers, and texts alone."""
    if task.kind == "preference":
        raise DataError(f"task {task.name} holds pairs of answers: no outputs are scored against them; use eval")
    if any(isinstance(each, Document) for each in examples):
        raise DataError(f"task {task.name} holds texts alone, which answer nothing: there are no outputs to score")


def score_outputs(task: Task, examples: Examples, outputs: Sequence[str]) -> Scored:
    """The scores of outputs, one for each example: a text, the name of a class, or a value as text.

    Raises `DataError` for an output that is no class or value, or an example whose label is not known.
    """
    require_answers(task, examples)
    if len(outputs) != len(examples):
        raise DataError(f"{len(outputs)} outputs for {len(examples)} examples; give one for each")
    if task.kind == "generation":
        references = [each.answers() for each in examples if isinstance(each, Example | Conversation)]
        return _by_part(partial(_score_texts, task.score_texts, outputs, references), examples)
    predictions = [_label(task, number, output) for number, output in enumerate(outputs, start=1)]
    return _by_part(partial(_score_labels, task.metrics, predictions, _known_labels(examples)), examples)


def score_lines(task: Task, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Scored:
    """The scores of texts against line-aligned references: for each output the same line of every file.

    A blank line is no reference, unless the task's official script makes something else of it.
    """
    if task.kind != "generation":
        raise DataError(f"task {task.name} is a {task.kind}; give its official file as the references")
    if task.score_aligned is None:
        scores = task.score_texts(outputs, [[each for each in row if each] for row in references])
    else:
        scores = task.score_aligned(outputs, references)
    return Scored(scores.metrics, {}, scores.notes)


def _by_part(score: Callable[[Sequence[int]], Scores], examples: Examples) -> Scored:
    """`score`, a function of the indices to count, over all and over each part."""
    everything = range(len(examples))
    names = sorted({each.part for each in examples} - {""})
    whole = score(everything)
    parts = {name: score([i for i in everything if examples[i].part == name]).metrics for name in names}
    return Scored(whole.metrics, parts if len(parts) > 1 else {}, whole.notes)


def _score_texts(
    score: TextScore, outputs: Sequence[str], references: Sequence[Sequence[str]], indices: Sequence[int]
) -> Scores:
    return score([outputs[i] for i in indices], [references[i] for i in indices])


def _score_labels(
    names: Sequence[str], predictions: Sequence[float], expected: Sequence[float], indices: Sequence[int]
) -> Scores:
    predicted, right = [predictions[i] for i in indices], [expected[i] for i in indices]
    return Scores({name: LABEL_METRICS[name](predicted, right) for name in names})


def _known_labels(examples: Examples) -> list[float]:
    labels = [each.label for each in examples if isinstance(each, LabelledExample | ImageExample)]
    known = [label for label in labels if label is not None]
    if len(known) < len(examples):
        raise DataError(
            f"{len(examples) - len(known)} of {len(examples)} examples have no label; choose a split that has them"
        )
    return known


def _label(task: Task, number: int, output: str) -> float:
    """The class's index, or the value."""
    if task.kind == "classification":
        if output not in task.labels:
            raise DataError(f"output {number} is {output!r:.60}; it must be one of {', '.join(task.labels)}")
        return task.labels.index(output)
    try:
        value = float(output)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"output {number} is {output!r:.60}; it must be a finite number")
    return value
