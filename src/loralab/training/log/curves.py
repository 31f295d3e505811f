"""curves.png: the loss, training and held out, over the steps of a run, with the learning rate below."""

from pathlib import Path
from typing import Any

from loralab.pictures.picture import COLOURS, picture, style

TRAIN, HELD_OUT, RATE = COLOURS[0], COLOURS[1], COLOURS[6]


def draw_curves(entries: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the entries of a journal and write the picture whole."""
    steps = [entry for entry in entries if entry["split"] == "train"]
    held_out = [entry for entry in entries if entry["split"] != "train"]
    with picture(path, title, 8, 5) as figure:
        loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        if steps:
            _draw_losses(loss, steps)
            rate.plot([e["step"] for e in steps], [e["learning_rate"] for e in steps], color=RATE)
        if held_out:
            at, values = [e["step"] for e in held_out], [e["loss"] for e in held_out]
            loss.plot(at, values, "o-", color=HELD_OUT, markersize=5, label="held out")
        if steps or held_out:
            loss.legend(frameon=False, fontsize=9)
        style(loss, up="loss, nats per target")
        style(rate, across="step", up="learning rate")
        rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        figure.align_ylabels()


def _draw_losses(axes: Any, steps: list[dict[str, Any]]) -> None:
    """Every step's loss faintly, and a running mean over about a twentieth of the run."""
    at, values = [entry["step"] for entry in steps], [entry["loss"] for entry in steps]
    axes.plot(at, values, color=TRAIN, alpha=0.3, linewidth=1)
    decay = 1 - 1 / max(1.0, len(values) / 20)
    mean, smooth = values[0], []
    for value in values:
        mean = decay * mean + (1 - decay) * value
        smooth.append(mean)
    axes.plot(at, smooth, color=TRAIN, linewidth=2, label="training")
