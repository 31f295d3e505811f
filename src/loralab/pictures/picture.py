"""How the pictures of this package look, and how one is begun and written. It knows nothing of what they show."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from loralab.files.whole import whole_file

INK, GRID = "#222222", "#dddddd"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555")
"""Okabe and Ito's, told apart by colour-blind readers too."""


@contextmanager
def picture(path: Path, title: str, width: float, height: float) -> Iterator[Figure]:
    """A figure of this size in inches to draw into; written as a whole PNG at the end of the block."""
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    figure.suptitle(title, fontsize=11, color=INK)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def plain(axes: Axes, tick: float = 2) -> None:
    """Small ticks, and no frame above and on the right."""
    axes.tick_params(labelsize=9, colors=INK, length=tick)
    axes.spines[["top", "right"]].set_visible(False)
