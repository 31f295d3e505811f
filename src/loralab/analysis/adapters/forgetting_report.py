"""Forgetting beside the task's gain, as files: forgetting.json, and a picture of before and after."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from loralab.analysis.adapters.forgetting import Forgetting, HeldOut, forgetting
from loralab.analysis.adapters.measurement import Measurement
from loralab.core.adapter import Adapter
from loralab.core.attach import disabled
from loralab.errors import SpecError
from loralab.files.whole import write_json
from loralab.pictures.picture import COLOURS, GRID, INK, picture

CERTAIN = 2.0
"""Standard errors that a change must be away from zero to be called one."""


def analyse_forgetting(
    adapter: Adapter, measure: Measurement, texts: Sequence[HeldOut], out: Path, *, tokens: int, window: int
) -> dict[str, Any]:
    """Measure text and task without and with the adapter, write the files, and return what the command line prints."""
    if measure.task.kind != "generation" or not isinstance(measure.processor, PreTrainedTokenizerBase):
        raise SpecError(
            f"forgetting was asked with task {measure.task.name}, a {measure.task.kind}: its model has no loss on a "
            "plain text. It takes an adapter of a causal language model, and a task of generation"
        )
    found = [
        forgetting(adapter, measure.model, measure.processor, text, tokens=tokens, window=window) for text in texts
    ]
    after = measure()
    with disabled(measure.model):
        before = measure()
    answer = {
        "adapter": adapter.name,
        "task": measure.task.name,
        "split": measure.split,
        "examples": measure.examples,
        "metric": measure.metric,
        "without_adapter": before,
        "with_adapter": after,
        "gain": measure.gain(before, after),
        "texts": [_row(each) for each in found],
    }
    write_json(out / "forgetting.json", answer | {"windows": {each.name: _windows(each) for each in found}})
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
        left.set_title("the task", fontsize=10, color=INK)
        right.set_title("other text", fontsize=10, color=INK)
        left.set_xlabel(answer["metric"], fontsize=10, color=INK)
        right.set_xlabel("loss, nats per token", fontsize=10, color=INK)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)


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
    axes.tick_params(labelsize=9, colors=INK, length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
