"""The pictures of a tuning: the held-out loss over rates, and over steps with the rungs at which settings stopped."""

from collections.abc import Sequence
from pathlib import Path

from loralab.experiments.tuning.results import TuneResult, TuningRow
from loralab.extras import lacking
from loralab.pictures.picture import COLOURS, GRID, INK, picture, style

MARKERS = "os^DvP*X<>"


def draw_tuning(result: TuneResult, folder: Path, title: str) -> list[Path]:
    """Write rates.png and rungs.png, and return where they are; none where matplotlib is not installed."""
    if lacking("plots") or not any(row.losses for row in result.rows):
        return []
    return [_rates(result, folder / "rates.png", title), _rungs(result, folder / "rungs.png", title)]


def _rates(result: TuneResult, path: Path, title: str) -> Path:
    """A line per rank and set of targets through the losses at the first rung, where all of them were judged; what
    went on to the end stands below it, filled."""
    first, last = str(result.rungs[0]), str(result.rungs[-1])
    with picture(path, f"{title}: held-out loss over learning rates", 8, 5) as figure:
        axes = figure.subplots()
        style(axes, across="learning rate", up="held-out loss, nats per target, mean over seeds")
        for number, (name, rows) in enumerate(_series(result.rows).items()):
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            points = [(row.lr, row.losses[first]) for row in rows if first in row.losses]
            axes.plot(*_columns(points), f"{marker}-", color=colour, markersize=6, linewidth=1.5, mfc="white",
                      label=f"{name}, step {first}")  # fmt: skip
            ended = [(row.lr, row.losses[last]) for row in rows if last in row.losses and last != first]
            if ended:
                axes.plot(*_columns(ended), marker, color=colour, markersize=8, label=f"{name}, step {last}")
        axes.set_xscale("log")
        tried = sorted({row.lr for row in result.rows})
        axes.set_xticks(tried, [f"{rate:g}" for rate in tried])
        axes.minorticks_off()
        axes.set_ylim(*_limits([loss for row in result.rows for loss in row.losses.values()]))
        axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return path


def _rungs(result: TuneResult, path: Path, title: str) -> Path:
    """A line per setting from rung to rung, which ends where it was stopped; the best in colour."""
    with picture(path, f"{title}: the rungs", 8, 5) as figure:
        axes = figure.subplots()
        style(axes, across="step", up="held-out loss, nats per target, mean over seeds")
        for rung in result.rungs:
            axes.axvline(rung, color=GRID, linewidth=1, zorder=0)
        for number, row in reversed(list(enumerate(result.rows))):
            points = [(int(step), loss) for step, loss in row.losses.items()]
            colour = COLOURS[number] if number < len(COLOURS) - 1 else COLOURS[-1]
            faint = number >= len(COLOURS) - 1
            axes.plot(*_columns(points), "o-", color=colour, markersize=4, linewidth=1 if faint else 2,
                      alpha=0.5 if faint else 1.0, label=None if faint else row.label)  # fmt: skip
        if "loss" in result.base:
            axes.axhline(result.base["loss"], color=INK, linewidth=1, linestyle=":", label="the base")
        axes.set_xticks(list(result.rungs), [str(rung) for rung in result.rungs])
        losses = [loss for row in result.rows for loss in row.losses.values()]
        axes.set_ylim(*_limits([*losses, *([result.base["loss"]] if "loss" in result.base else [])]))
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return path


def _series(rows: Sequence[TuningRow]) -> dict[str, list[TuningRow]]:
    """The settings of one rank and set of targets, by rising rate."""
    series: dict[str, list[TuningRow]] = {}
    for row in sorted(rows, key=lambda row: (row.targets or "", row.rank, row.lr)):
        series.setdefault(f"r={row.rank}, {row.targets or 'q,v'}", []).append(row)
    return series


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _limits(losses: Sequence[float]) -> tuple[float, float]:
    """Room for all but what is far above the middle: one that nearly diverged would flatten the others."""
    order = sorted(losses)
    low, middle = order[0], order[len(order) // 2]
    high = min(order[-1], middle + 4 * max(middle - low, 1e-3))
    margin = 0.06 * max(high - low, 1e-3)
    return low - margin, high + margin
