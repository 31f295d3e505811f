"""Pictures of panels: curves and bars side by side, and matrices on one scale of colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from loralab.extras import lazy
from loralab.pictures.picture import COLOURS, INK, colour_bar, in_whole_numbers, picture, style


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
            style(axes, panel.title, up=panel.better, grid="y")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


ticker = lazy("matplotlib.ticker", "plots")


@dataclass(frozen=True)
class Chart:
    """One panel: lines by name, each of x and y; bands of lowest and highest y around some of them."""

    title: str
    across: str
    up: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    whole_numbers: bool = True
    """Whether x counts something."""
    logarithmic: bool = False
    """Whether y is."""


def draw_charts(charts: Sequence[Chart], path: Path, title: str) -> None:
    """Draw the panels and write the picture whole."""
    with picture(path, title, 4.9 * len(charts), 3.9) as figure:
        for axes, chart in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts, strict=True):
            for number, (name, (x, y)) in enumerate(chart.lines.items()):
                colour = COLOURS[number % len(COLOURS)]
                axes.plot(x, y, color=colour, label=name, linewidth=1.8, marker="o", markersize=3)
                if name in chart.bands:
                    axes.fill_between(x, *chart.bands[name], color=colour, alpha=0.15, linewidth=0)
            style(axes, chart.title, chart.across, chart.up)
            if chart.whole_numbers:
                in_whole_numbers(axes.xaxis)
            if chart.logarithmic:
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
                axes.yaxis.set_minor_formatter(ticker.NullFormatter())
            axes.legend(fontsize=9, frameon=False)


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
