"""How the pictures of this package look, and how one is begun and written. It knows nothing of what they show."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from loralab.extras import lazy
from loralab.files.whole import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

agg, figures = lazy("matplotlib.backends.backend_agg", "plots"), lazy("matplotlib.figure", "plots")
ticker = lazy("matplotlib.ticker", "plots")

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


def plain(axes: "Axes", tick: float = 2) -> None:
    """Small ticks, and no frame above and on the right."""
    axes.tick_params(labelsize=9, colors=INK, length=tick)
    axes.spines[["top", "right"]].set_visible(False)


def in_per_cent(axis: "Axis") -> None:
    """Shares, of 1, as whole per cent."""
    axis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
