"""How the pictures of this package look, and how one is begun and written."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from loralab.extras import lazy
from loralab.files.whole import whole_file
from loralab.pictures.ticks import log_ticks, short_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

agg, figures = lazy("matplotlib.backends.backend_agg", "plots"), lazy("matplotlib.figure", "plots")
ticker = lazy("matplotlib.ticker", "plots")

MARGIN = 1.5
"""How much further a scale of ratios goes than what it shows."""
INK, GRID = "#222222", "#dddddd"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555")
"""Okabe and Ito's, told apart by colour-blind readers too."""


@contextmanager
def picture(path: Path, title: str, width: float, height: float) -> Iterator["Figure"]:
    """A figure of this size in inches to draw into; written as a whole PNG at the end of the block."""
    figure = figures.Figure(figsize=(width, height), dpi=130, layout="constrained")
    agg.FigureCanvasAgg(figure)
    yield figure
    figure.suptitle(title, fontsize=11, color=INK)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def style(
    axes: "Axes",
    title: str = "",
    across: str = "",
    up: str = "",
    *,
    grid: Literal["both", "x", "y"] | None = "both",
    frame: Collection[str] = ("left", "bottom"),
) -> None:
    """Label a panel in the colour of ink, with small ticks, a faint grid behind what is drawn, and these sides of its
    frame.
    """
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_xlabel(across, fontsize=10, color=INK)
    axes.set_ylabel(up, fontsize=10, color=INK)
    axes.tick_params(labelsize=9, colors=INK, length=2 if len(frame) > 1 else 0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in frame)
    if grid is not None:
        axes.grid(axis=grid, color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)


def in_whole_numbers(axis: "Axis") -> None:
    """Ticks of what is counted."""
    axis.set_major_locator(ticker.MaxNLocator(integer=True))


def counts_across(axes: "Axes", values: Collection[float]) -> None:
    """The horizontal axis for counts: a scale of ratios with room on both sides, its ticks 20k, 50k, 1M."""
    low, high = min(values) / MARGIN, max(values) * MARGIN
    ticks = log_ticks(low, high)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [short_count(tick) for tick in ticks])
    axes.minorticks_off()


def in_per_cent(axis: "Axis") -> None:
    """Shares of 1 as whole per cent."""
    axis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))


def legend_below(figure: "Figure", axes: "Axes | None" = None) -> None:
    """What the colours mean, below all panels: those of one panel, or of all."""
    entries = () if axes is None else axes.get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def colour_bar(figure: "Figure", colours: Any, beside: Any, label: str, **shape: Any) -> None:
    """The scale of colours (what `imshow` returns, or a `ScalarMappable`) beside these panels."""
    bar = figure.colorbar(colours, ax=beside, pad=0.02, **shape)
    bar.set_label(label, fontsize=10, color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, colors=INK)
