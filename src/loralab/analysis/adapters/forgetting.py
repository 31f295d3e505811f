"""What an adapter costs elsewhere: the base's loss on a text that nobody trained it on, before and after.

The text is cut into windows, and the loss of each is taken twice. The change is a mean over windows of paired
differences, so that its standard error is far below that of either loss.

Written: forgetting.json, and a picture of before and after.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loralab.analysis.adapters.measurement import Measurement
from loralab.core.adapter import Adapter
from loralab.core.attach import disabled
from loralab.errors import DataError, NotFoundError, SpecError
from loralab.evaluation.likelihood import mean_target_loss
from loralab.files.whole import write_json
from loralab.methods.prefix.update import text_room
from loralab.nn.mode import evaluating
from loralab.nn.targets import IGNORED
from loralab.pictures.picture import COLOURS, legend_below, picture, style
from loralab.progress import tracked
from loralab.tasks.encoding.encoded import Encoded
from loralab.tasks.encoding.tokens import plain_ids

EMBEDDED = "Python's language reference"
SHORTEST = 8
"""Tokens of a window below which a loss says nothing."""
CERTAIN = 2.0
"""Standard errors that a change must be away from zero to be called one."""


@dataclass(frozen=True)
class HeldOut:
    """A plain text and where it is from."""

    name: str
    text: str


@dataclass(frozen=True)
class Forgetting:
    """The loss in nats per token on every window, without and with the adapter."""

    name: str
    tokens: int
    before_W: tuple[float, ...]
    after_W: tuple[float, ...]

    @cached_property
    def before(self) -> float:
        """Of the base, a mean over windows."""
        return sum(self.before_W) / len(self.before_W)

    @cached_property
    def after(self) -> float:
        """With the adapter."""
        return sum(self.after_W) / len(self.after_W)

    @property
    def change(self) -> float:
        """Nats per token; above zero the model is worse at the text."""
        return self.after - self.before

    @property
    def standard_error(self) -> float | None:
        """Of the change, over windows; None where there is one window alone."""
        differences = [after - before for before, after in zip(self.before_W, self.after_W, strict=True)]
        if len(differences) < 2:
            return None
        squares = sum((each - self.change) ** 2 for each in differences)
        return math.sqrt(squares / (len(differences) - 1) / len(differences))


def embedded_text() -> HeldOut:
    """The reference of Python's language as its interactive help holds it: half a million characters of English, which
    no embedded task trains on.
    """
    return HeldOut(EMBEDDED, "\n\n".join(topics.values()))


def read_text(path: str) -> HeldOut:
    """A UTF-8 file. Raises NotFoundError or DataError."""
    file = Path(path)
    if not file.is_file():
        raise NotFoundError(f"no such file: {path}; name a UTF-8 text")
    try:
        return HeldOut(file.name, file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as problem:
        raise DataError(f"{path} is not UTF-8 ({problem}); convert it, or name another") from problem


def forgetting(
    adapter: Adapter, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, held_out: HeldOut, *, tokens: int,
    window: int,
) -> Forgetting:  # fmt: skip
    """The loss on `tokens` tokens of the text, in windows spread evenly over it.

    Raises SpecError for sizes out of range and for any model but a causal language model.
    """
    encoded = windows_of(model, tokenizer, held_out, tokens, window)
    with evaluating(model):
        after = tuple(_losses(model, encoded))
        with disabled(model):
            before = tuple(_losses(model, encoded))
    return Forgetting(held_out.name, sum(each.targets for each in encoded), before, after)


def windows_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, held_out: HeldOut, tokens: int, window: int
) -> list[Encoded]:
    """The windows; the first token of each is context alone."""
    if getattr(model.config, "is_encoder_decoder", False):
        raise SpecError(
            f"a {type(model).__name__} reads one text and writes another: plain text has no loss under it; choose an "
            "adapter of a causal language model"
        )
    size = min(window, text_room(model) or window)
    if size < SHORTEST or tokens < size:
        raise SpecError(
            f"{tokens} tokens in windows of {size}: a window needs at least {SHORTEST} tokens, and the text one window"
        )
    ids = plain_ids([held_out.text], tokenizer)[0]
    starts = _starts(len(ids), size, tokens // size)
    if not starts:
        raise DataError(f"{held_out.name} has {len(ids)} tokens, less than one window of {size}; give more text")
    rows = [ids[start : start + size] for start in starts]
    return [Encoded(row, [IGNORED, *row[1:]]) for row in rows]


def _starts(length: int, size: int, count: int) -> list[int]:
    """Where windows begin: in order, never overlapping, the last one at the end of the text."""
    count = min(count, length // size)
    if count <= 1:
        return [0] * count
    return [round(place * (length - size) / (count - 1)) for place in range(count)]


@torch.no_grad()
def _losses(model: PreTrainedModel, encoded: Sequence[Encoded]) -> Iterator[float]:
    for each in tracked(encoded, "windows"):
        yield mean_target_loss(model, [each], 0, 1)


def analyse_forgetting(
    adapter: Adapter, measure: Measurement, texts: Sequence[HeldOut], out: Path, *, tokens: int, window: int
) -> dict[str, Any]:
    """Measure text and task without and with the adapter, write the files, and return what the command line prints."""
    if measure.task.kind != "generation" or not isinstance(measure.processor, PreTrainedTokenizerBase):
        raise SpecError(
            f"task {measure.task.name} is a {measure.task.kind}: its model has no loss on a plain text; choose an "
            "adapter of a causal language model, and a task of generation"
        )
    results = [
        forgetting(adapter, measure.model, measure.processor, text, tokens=tokens, window=window) for text in texts
    ]
    after = measure()
    with disabled(measure.model):
        before = measure()
    answer = {
        "adapter": adapter.name,
        **measure.said(),
        "without_adapter": before,
        "with_adapter": after,
        "gain": measure.gain(before, after),
        "texts": [_row(each) for each in results],
        "notes": list(measure.loose()),
    }
    write_json(out / "forgetting.json", answer | {"windows": {each.name: _windows(each) for each in results}})
    _draw(answer, out / "forgetting.png", f"{adapter.name}: what was gained and what was forgotten")
    return answer | {"files": [str(out / "forgetting.json"), str(out / "forgetting.png")]}


def _row(each: Forgetting) -> dict[str, Any]:
    error = each.standard_error
    certain = error is not None and abs(each.change) > CERTAIN * error
    return {
        "text": each.name,
        "tokens": each.tokens,
        "windows": len(each.before_W),
        "loss_before": each.before,
        "loss_after": each.after,
        "perplexity_before": math.exp(each.before),
        "perplexity_after": math.exp(each.after),
        "change": each.change,
        "standard_error": error,
        "verdict": ("forgotten" if each.change > 0 else "better") if certain else "no change beyond chance",
    }


def _windows(each: Forgetting) -> dict[str, Any]:
    return {"before": list(each.before_W), "after": list(each.after_W)}


def _draw(answer: dict[str, Any], path: Path, title: str) -> None:
    """Two panels with scales of their own: the task's metric, and the texts' loss."""
    texts = answer["texts"]
    with picture(path, title, 9.2, 1.7 + 0.55 * len(texts)) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        name = f"{answer['task']}, {answer['split']}"
        _before_and_after(left, [(name, answer["without_adapter"], answer["with_adapter"], None)])
        rows = [(row["text"], row["loss_before"], row["loss_after"], row["standard_error"]) for row in texts]
        _before_and_after(right, rows)
        style(left, "the task", answer["metric"], grid="x", frame=("bottom",))
        style(right, "other text", "loss, nats per token", grid="x", frame=("bottom",))
        legend_below(figure, left)


def _before_and_after(axes: Any, rows: Sequence[tuple[str, float, float, float | None]]) -> None:
    """An arrow from the base to the adapter in every row, the change and its standard error above it."""
    places = range(len(rows))
    for place, (_, before, after, error) in zip(places, rows, strict=True):
        axes.annotate("", (after, place), (before, place), arrowprops={"arrowstyle": "->", "color": "#888888"})
        said = f"{after - before:+.3f}" + ("" if error is None else f" ± {error:.3f}")
        axes.annotate(said, ((before + after) / 2, place), (0, 9), textcoords="offset points", ha="center", fontsize=9)
    befores, afters = ([row[column] for row in rows] for column in (1, 2))
    axes.plot(befores, places, "o", color=COLOURS[6], markersize=8, label="base")
    axes.plot(afters, places, "o", color=COLOURS[1], markersize=8, label="with the adapter")
    axes.set_yticks(places, [row[0] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.25)
