"""The pictures of a comparison: its metric over trained parameters, over ranks, and over training examples."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loralab.experiments.comparison.claims import comparable
from loralab.experiments.comparison.rows import Row, Spread, main_metric
from loralab.extras import lazy
from loralab.metrics.scores import within_bounds
from loralab.pictures.picture import COLOURS, counts_across, picture, style

ticker = lazy("matplotlib.ticker", "plots")

MARKERS = "os^DvP*X<>"
UNITS = {"loss": "nats per target", "perplexity": "e to the loss", "nist": "", "cider": ""}
"""Of the metrics that are not on a scale of 0 to 100."""

QV = "q,v of the family"

At = Callable[[Row], float | None]
"""Where a row stands on the horizontal axis."""

Series = Callable[[Row], str]
"""What a row belongs to: the rows of one name share a colour and a marker."""


def draw_comparison(rows: Sequence[Row], asked: str | None, folder: Path, title: str) -> list[Path]:
    """Write the pictures that these rows can fill, and return where they are."""
    metric = main_metric(rows, asked)
    if metric is None:
        return []
    these = comparable(rows, asked).rows
    drawn = [_parameters(these, metric, folder / "parameters.png", title)]
    several = _with_several_ranks(these)
    if several:
        drawn.append(_ranks(several, metric, folder / "ranks.png", title))
    if len({row.train_examples for row in rows}) > 1:
        drawn.append(_examples(rows, metric, folder / "examples.png", title))
    return drawn


def _parameters(rows: Sequence[Row], metric: str, path: Path, title: str) -> Path:
    """As the paper's Figure 2: a series per method, and for each of its sets of targets where there are several."""
    with _axes(path, title, metric, "trained parameters (head apart)") as axes:
        _draw(axes, rows, metric, _method_and_targets(rows), lambda row: row.trainable_params or 1, line=False)
        counts_across(axes, [row.trainable_params or 1 for row in rows])
    return path


def _method_and_targets(rows: Sequence[Row]) -> Series:
    tried = {(row.method, row.targets) for row in rows}
    several = {method for method, _ in tried if sum(each == method for each, _ in tried) > 1}
    return lambda row: f"{row.method} {row.targets or QV}" if row.method in several else row.method


def _ranks(rows: Sequence[Row], metric: str, path: Path, title: str) -> Path:
    """As Table 6: a series per set of targets."""
    with _axes(path, title, metric, "rank r (log2 scale)") as axes:
        _draw(axes, rows, metric, lambda row: row.targets or QV, lambda row: row.rank)
        axes.set_xscale("log", base=2)
        _ticks(axes, {row.rank for row in rows if row.rank is not None})
    return path


def _with_several_ranks(rows: Sequence[Row]) -> list[Row]:
    """LoRA's rows on those targets that several ranks were tried on."""
    lora = [row for row in rows if row.method == "lora"]
    return [row for row in lora if len({other.rank for other in lora if other.targets == row.targets}) > 1]


def _examples(rows: Sequence[Row], metric: str, path: Path, title: str) -> Path:
    """As Table 16: a series per setting, over the number of training examples."""
    with _axes(path, title, metric, "training examples") as axes:
        _draw(axes, rows, metric, lambda row: row.series, lambda row: row.train_examples)
        axes.set_xscale("log")
        _ticks(axes, {row.train_examples for row in rows if row.train_examples is not None})
    return path


@contextmanager
def _axes(path: Path, title: str, metric: str, across: str) -> Iterator[Any]:
    """The one panel of a picture, to draw series into."""
    unit = UNITS.get(metric, "of 100")
    measured = f"held-out {metric} ({unit})" if unit else f"held-out {metric}"
    with picture(path, title, 8, 5) as figure:
        axes = figure.subplots()
        style(axes, across=across, up=f"{measured}, mean ± sd over seeds")
        yield axes
        axes.yaxis.set_major_locator(ticker.MaxNLocator(nbins=7))
        axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _ticks(axes: Any, sizes: set[int]) -> None:
    """A tick at each of these sizes and none between."""
    axes.set_xticks(sorted(sizes), [f"{size:,}" for size in sorted(sizes)])
    axes.minorticks_off()


def _draw(axes: Any, rows: Sequence[Row], metric: str, series: Series, at: At, *, line: bool = True) -> None:
    """Every series in a colour and marker of its own: means, with the standard deviation over seeds as bars."""
    groups: dict[str, list[tuple[float, Row]]] = {}
    for row in rows:
        place = at(row)
        if metric in row.metrics and place is not None:
            groups.setdefault(series(row), []).append((place, row))
    for number, (name, points) in enumerate(groups.items()):
        points.sort(key=lambda point: point[0])
        axes.errorbar(
            [place for place, _ in points],
            [row.metrics[metric].mean for _, row in points],
            yerr=_bars([row.metrics[metric] for _, row in points], metric),
            fmt=f"{MARKERS[number % len(MARKERS)]}{'-' if line or _is_curve(points) else ''}",
            color=COLOURS[number % len(COLOURS)],
            markersize=7, linewidth=1.5, elinewidth=1, capsize=3, label=name,
        )  # fmt: skip


def _bars(spreads: Sequence[Spread], metric: str) -> list[list[float]]:
    """Lengths of the bars below and above the means; they end where the metric does."""
    ends = [within_bounds(metric, each.mean, each.sd) for each in spreads]
    below = [each.mean - low for each, (low, _) in zip(spreads, ends, strict=True)]
    above = [high - each.mean for each, (_, high) in zip(spreads, ends, strict=True)]
    return [below, above]


def _is_curve(points: list[tuple[float, Row]]) -> bool:
    """Whether a line through the points means something: they differ in size alone."""
    return len({row.targets for _, row in points}) == 1
