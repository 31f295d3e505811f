"""Pictures of bars: panels side by side, a bar for each of a few names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loralab.pictures.picture import COLOURS, INK, picture, style


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
