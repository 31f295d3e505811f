"""What a model with fewer blocks can still do: its perplexity on held-out text, and a task's own metric.

Perplexity alone hides what goes first: long and exact generation. So the task generates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loralab.analysis.layers.config import Measuring
from loralab.analysis.layers.texts import encode, joined, perplexity, read_texts, sample_pieces
from loralab.errors import DataError
from loralab.evaluation.evaluate import evaluate
from loralab.generation.config import GenerationConfig
from loralab.models.context import context_length
from loralab.models.load import LoadedModel
from loralab.pictures.panels import Bars, draw_bars
from loralab.tasks.table import open_task

PIECE = 1024
"""Characters of a held-out piece."""


@dataclass(frozen=True)
class Measured:
    """The perplexity on text; of the task the loss and its metrics, where one was asked for."""

    perplexity: float
    task_loss: float | None
    metrics: dict[str, float]


def measure(loaded: LoadedModel, measuring: Measuring) -> Measured:
    """Measure a model as it is now. Raises DataError where nothing of the text is held out."""
    documents = read_texts(measuring.data).held_out
    if not documents:
        raise DataError(f"{measuring.data} is too short to hold a part out for the perplexity; give a longer file")
    pieces = sample_pieces(joined(documents), PIECE, measuring.pieces)
    rows = encode(pieces, loaded.tokenizer, context_length(loaded.model) or PIECE)
    on_text = perplexity(loaded.model, loaded.tokenizer, rows)
    if measuring.task is None:
        return Measured(on_text, None, {})
    evaluation = evaluate(
        loaded.model,
        loaded.tokenizer,
        open_task(measuring.task, measuring.task_data),
        measuring.split,
        limit=measuring.limit,
        generate=True,
        generation=GenerationConfig(max_new_tokens=measuring.max_new_tokens),
    )
    metrics = {name: value for name, value in evaluation.metrics.items() if name != "perplexity"}
    return Measured(on_text, evaluation.loss, metrics)


def draw_measures(measures: Mapping[str, Measured], path: Path, title: str) -> None:
    """Bars of the perplexity, and of the task's last metric."""
    panels = [Bars("perplexity on held-out text", {k: v.perplexity for k, v in measures.items()}, "lower is better")]
    for name in _shown(measures):
        panels.append(Bars(name, {k: v.metrics[name] for k, v in measures.items()}, "higher is better"))
    draw_bars(panels, path, title)


def as_numbers(measures: Mapping[str, Measured]) -> dict[str, dict[str, Any]]:
    """The measures as JSON has them."""
    return {name: asdict(each) for name, each in measures.items()}


def _shown(measures: Mapping[str, Measured]) -> Sequence[str]:
    """The task's last metric: ROUGE-L of the text tasks that have no metric of their own."""
    return list(next(iter(measures.values())).metrics)[-1:]
