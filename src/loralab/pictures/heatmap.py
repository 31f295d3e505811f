"""Pictures of matrices: panels of one figure, all on one scale of colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from loralab.extras import lazy
from loralab.pictures.picture import INK, colour_bar, picture, style

matplotlib = lazy("matplotlib", "plots")
colors, ticker = lazy("matplotlib.colors", "plots"), lazy("matplotlib.ticker", "plots")

PANEL_WIDTH, PANEL_HEIGHT = 2.7, 2.5
"""Inches."""


@dataclass(frozen=True)
class Panel:
    """A matrix with its first row at the top; rows and columns are counted from 1."""

    title: str
    values: Tensor
    rows: int | None = None
    """How many rows there are, where the values are of evenly spaced ones only."""


def draw_heatmaps(
    rows: Sequence[Sequence[Panel]], path: Path, *, title: str, across: str, down: str, bar: str, highest: float
) -> None:
    """Draw rows of panels, colours from 0 to `highest`, and write the picture whole."""
    columns = max(map(len, rows))
    size = (1.6 + PANEL_WIDTH * columns, 1.1 + PANEL_HEIGHT * len(rows))
    with picture(path, title, *size) as figure:
        grid = figure.subplots(len(rows), columns, squeeze=False)
        scale, colours = colors.Normalize(0, highest), matplotlib.colormaps["viridis"]
        for line, panels in zip(grid, rows, strict=True):
            for axes in line[len(panels) :]:
                axes.set_visible(False)
            for axes, panel in zip(line, panels, strict=False):
                high, wide = panel.rows or panel.values.shape[0], panel.values.shape[1]
                extent = (0.5, wide + 0.5, high + 0.5, 0.5)
                axes.imshow(
                    panel.values.numpy(),
                    norm=scale,
                    cmap=colours,
                    aspect="auto",
                    extent=extent,
                    interpolation="nearest",
                )
                style(axes, panel.title, grid=None, frame=())
                axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
                axes.yaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
        figure.supxlabel(across, fontsize=10, color=INK)
        figure.supylabel(down, fontsize=10, color=INK)
        colour_bar(figure, matplotlib.cm.ScalarMappable(scale, colours), grid, bar, shrink=0.9, aspect=30)
