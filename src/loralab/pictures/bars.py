"""Pictures of a model's layers: distances between levels, and bars of what a change to the layers did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from loralab.analysis.layers.angular import AngularDistances
from loralab.pictures.picture import COLOURS, GRID, INK, picture, plain


@dataclass(frozen=True)
class Bars:
    """One panel: a bar for each name."""

    title: str
    values: Mapping[str, float]
    better: str
    """Which way is better, for the axis."""


def draw_bars(panels: Sequence[Bars], path: Path, title: str) -> None:
    """Draw the panels side by side and write the picture whole."""
    with picture(path, title, 4.2 * len(panels), 3.6) as figure:
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            heights = list(panel.values.values())
            drawn = axes.bar(list(panel.values), heights, color=COLOURS[: len(heights)], width=0.62)
            axes.bar_label(drawn, [_short(height) for height in heights], fontsize=9, color=INK, padding=2)
            axes.margins(y=0.15)
            if min(heights) > 0 and max(heights) > 20 * min(heights):
                axes.set_yscale("log")
            axes.set_title(panel.title, fontsize=10, color=INK)
            axes.set_ylabel(panel.better, fontsize=9, color=INK)
            plain(axes)
            axes.grid(axis="y", color=GRID, linewidth=0.6)
            axes.set_axisbelow(True)


def draw_angular(found: AngularDistances, sizes: Sequence[int], path: Path, title: str) -> None:
    """d(ℓ, n) for every start and size with the best start of each size marked, and the best distance of each size."""
    with picture(path, title, 10.4, 4.4) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        blocks = found.blocks
        grid = np.full((blocks, blocks), np.nan)
        for count in range(1, blocks + 1):
            for start in range(blocks - count + 1):
                grid[count - 1, start] = found.distance(start, count)
        edges = (-0.5, blocks - 0.5, 0.5, blocks + 0.5)
        image = left.imshow(
            grid, origin="lower", extent=edges, aspect="auto", cmap=matplotlib.colormaps["viridis"], vmin=0
        )
        best = [found.best(count) for count in sizes]
        left.plot(best, sizes, "o", color="white", markeredgecolor=INK, markersize=4.5, label="least of its n")
        left.legend(fontsize=9, frameon=False, loc="upper right")
        left.set_title("distance d(ℓ, n)", fontsize=10, color=INK)
        left.set_xlabel("ℓ: first block of those to drop", fontsize=10, color=INK)
        left.set_ylabel("n: how many blocks", fontsize=10, color=INK)
        bar = figure.colorbar(image, ax=left, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("angle / π: 0 parallel, 1/2 orthogonal", fontsize=9, color=INK)
        bar.ax.tick_params(length=0, labelsize=8, colors=INK)
        right.plot(
            sizes,
            [found.distance(*each) for each in zip(best, sizes, strict=True)],
            color=COLOURS[0],
            marker="o",
            markersize=3.5,
        )
        right.set_title("the least distance of each n", fontsize=10, color=INK)
        right.set_xlabel("n: how many blocks", fontsize=10, color=INK)
        right.set_ylabel("d(ℓ*, n)", fontsize=10, color=INK)
        right.set_ylim(bottom=0)
        right.grid(color=GRID, linewidth=0.6)
        for axes in (left, right):
            plain(axes)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.yaxis.set_major_locator(MaxNLocator(integer=True))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
