"""latency.png: the slow-down as heat maps like the paper's Figure 5, a row of them for each method."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loralab.experiments.latency.contenders import BASE_AGAIN, HOULSBY, LIN, LORA_DEPLOYED, LORA_LIVE, LORA_MERGED
from loralab.experiments.latency.rows import Timing
from loralab.experiments.latency.table import slow_down_text
from loralab.extras import lazy
from loralab.pictures.picture import INK, colour_bar, picture, style

matplotlib = lazy("matplotlib", "plots")
colors, patches = lazy("matplotlib.colors", "plots"), lazy("matplotlib.patches", "plots")

PANELS = (
    ("Adapter-H", "bottleneck", {BASE_AGAIN: "base, 0", HOULSBY: "{size}"}),
    ("Adapter-L", "bottleneck", {BASE_AGAIN: "base, 0", LIN: "{size}"}),
    ("LoRA", "", {LORA_DEPLOYED: "merged", LORA_MERGED: "merged,\nattached", LORA_LIVE: "live, r={size}"}),
)
"""Title, label of the vertical axis, and its lines from below, by contender. Size 0 is the base, timed again."""
PAPER_SCALE = 35.0
"""Per cent at the end of Figure 5's colours; ours end there or higher."""
CELL, BACKGROUND = 0.5, "#eeeeee"
"""Inches of a cell's height; the colour of settings that were not measured."""

Line = tuple[str, int]
"""A contender and its size."""


def draw_slow_down(rows: Sequence[Timing], path: Path, title: str) -> None:
    """Draw slow-down in per cent over batches, one panel for each method and sequence length, and write it whole."""
    sequences = sorted({row.sequence for row in rows})
    batches = sorted({row.batch for row in rows})
    lines = [_lines(rows, labels) for _, _, labels in PANELS]
    heights = [len(each) for each in lines]
    width = max(7.0, 2.6 + len(sequences) * max(2.0, 0.75 * len(batches)))
    highest = max(PAPER_SCALE, *(_slow_down(row) for row in rows))
    colours, scale = matplotlib.colormaps["YlOrRd"], colors.Normalize(0, highest)
    with picture(path, title, width, 1.9 + CELL * sum(heights)) as figure:
        grid = figure.subplots(
            len(PANELS), len(sequences), squeeze=False, sharex=True, sharey="row", height_ratios=heights
        )
        for panels, these, (name, unit, labels) in zip(grid, lines, PANELS, strict=True):
            for axes, sequence in zip(panels, sequences, strict=True):
                here = [row for row in rows if row.sequence == sequence]
                _draw(axes, here, batches, these, colours, scale)
            _label_lines(panels[0], f"{name}\n{unit}".strip(), these, labels)
        _label_columns(grid, sequences, batches)
        mappable = matplotlib.cm.ScalarMappable(scale, colours)
        label = "slow-down, % of the base's time"
        colour_bar(figure, mappable, grid, label, shrink=0.8, aspect=30)
        figure.align_ylabels(grid[:, 0])


def _lines(rows: Sequence[Timing], labels: dict[str, str]) -> list[Line]:
    """The lines of a panel from below: by contender, then by size."""
    order = list(labels)
    lines = {(row.contender, row.size) for row in rows if row.contender in labels}
    return sorted(lines, key=lambda line: (order.index(line[0]), line[1]))


def _draw(
    axes: Any, rows: Sequence[Timing], batches: Sequence[int], lines: Sequence[Line], colours: Any, scale: Any
) -> None:
    """A cell for each measured row, with its number; what is within the noise of the base has the base's colour."""
    axes.set(xlim=(0, len(batches)), ylim=(0, len(lines)), facecolor=BACKGROUND)
    for row in (row for row in rows if (row.contender, row.size) in lines):
        x, y = batches.index(row.batch), lines.index((row.contender, row.size))
        noise = row.beyond_noise is False or row.contender == BASE_AGAIN
        colour = colours(scale(0 if noise else _slow_down(row)))
        axes.add_patch(patches.Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white", linewidth=1.5))
        said, size = (f"noise\n({slow_down_text(row)})", 7.5) if noise else (slow_down_text(row), 9)
        axes.text(x + 0.5, y + 0.5, said, ha="center", va="center", fontsize=size, color=_ink_on(colour))
    style(axes, grid=None, frame=())


def _label_lines(axes: Any, name: str, lines: Sequence[Line], labels: dict[str, str]) -> None:
    texts = [labels[contender].format(size=size) for contender, size in lines]
    axes.set_yticks([number + 0.5 for number in range(len(lines))], texts)
    axes.set_ylabel(name, fontsize=10, color=INK)


def _label_columns(grid: Any, sequences: Sequence[int], batches: Sequence[int]) -> None:
    for column, sequence in enumerate(sequences):
        grid[0][column].set_title(f"sequence {sequence}", fontsize=10, color=INK)
        grid[-1][column].set_xlabel("batch", fontsize=10, color=INK)
        grid[-1][column].set_xticks([number + 0.5 for number in range(len(batches))], list(map(str, batches)))


def _slow_down(row: Timing) -> float:
    return 100 * (row.ratio - 1)


def _ink_on(colour: tuple[float, float, float, float]) -> str:
    red, green, blue, _ = colour
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else INK
