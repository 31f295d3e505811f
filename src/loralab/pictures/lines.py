"""Pictures of curves: panels side by side, one line for each of a few kinds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loralab.extras import lazy
from loralab.pictures.picture import COLOURS, in_whole_numbers, picture, style

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
