"""From what came of the cells to the rows of the table: a setting each, over its seeds; and how figures are
written for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Any

from loralab.evaluation.few import few_examples
from loralab.experiments.comparison.cells import Setting
from loralab.experiments.comparison.process import Outcome


@dataclass(frozen=True)
class Spread:
    """One metric over the seeds."""

    median: float
    mean: float
    sd: float
    """The sample standard deviation; 0 for a single seed, which shows no spread."""
    n: int
    values: tuple[float, ...]
    """In the order of the row's seeds."""


@dataclass(frozen=True)
class Failure:
    """A seed that gave no result."""

    seed: int
    message: str


@dataclass(frozen=True, kw_only=True)
class Row(Setting):
    """A setting and what its seeds reached; the figures are None where no seed ended well."""

    lr: float
    trainable_params: int | None = None
    """Trained by the method, the head apart."""
    head_params: int | None = None
    total_params: int | None = None
    """Of the base."""
    budget_miss: float | None = None
    """(trainable_params − budget) / budget, where a budget was given."""
    metrics: dict[str, Spread]
    tokens_per_second: float | None = None
    """Median over the seeds."""
    peak_memory_bytes: int | None = None
    """The largest over the seeds."""
    steps: int | None = None
    """Median over the seeds."""
    seconds: float | None = None
    """In training steps, median over the seeds."""
    processor_seconds: float | None = None
    """Summed over threads; None where a cell was trained before it was recorded."""
    held_out_examples: int | None = None
    """What the metrics are measured on, the fewest over the seeds; None where it was not recorded."""
    seeds: tuple[int, ...] = ()
    """Those that ended well."""
    failed: tuple[Failure, ...] = ()

    @property
    def label(self) -> str:
        """Method, setting and examples, for people: `lora r=4, q,v, 100 examples`."""
        examples = f", {self.train_examples:,} examples" if self.train_examples is not None else ""
        return f"{self.series}{examples}"

    @property
    def series(self) -> str:
        """The label without the examples."""
        return f"{self.method} {self.described()}".strip()

    @property
    def share(self) -> float | None:
        """Trainable parameters ÷ those of the base."""
        return self.trainable_params / self.total_params if self.trainable_params and self.total_params else None


def rows_of(outcomes: Sequence[Outcome], budget: int | None = None) -> list[Row]:
    """The rows, in the order in which their settings come first."""
    groups: dict[Setting, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.cell.setting, []).append(outcome)
    return [_row(setting, group, budget) for setting, group in groups.items()]


def _row(setting: Setting, group: list[Outcome], budget: int | None) -> Row:
    done = [(each.cell.config.seed, each.result) for each in group if each.result is not None]
    failed = [Failure(each.cell.config.seed, each.failure) for each in group if each.failure is not None]
    results = [result for _, result in done]
    return Row(
        **vars(setting),
        lr=group[0].cell.config.lr,
        metrics={name: spread([each["metrics"][name] for each in results]) for name in _names(results)},
        seeds=tuple(seed for seed, _ in done),
        failed=tuple(failed),
        **(_figures(results, budget) if results else {}),
    )


def _figures(results: list[dict[str, Any]], budget: int | None) -> dict[str, Any]:
    trained = results[0]["trainable_params"]
    counted = [each["held_out"]["rows"] for each in results if "rows" in (each.get("held_out") or {})]
    worked = [each["processor_seconds"] for each in results if "processor_seconds" in each]
    return {
        "trainable_params": trained,
        "head_params": results[0]["head_params"],
        "total_params": results[0]["total_params"],
        "budget_miss": (trained - budget) / budget if budget else None,
        "tokens_per_second": median(each["tokens_per_second"] for each in results),
        "peak_memory_bytes": max(each["peak_memory_bytes"] for each in results),
        "steps": round(median(each["steps"] for each in results)),
        "seconds": median(each["seconds"] for each in results),
        "processor_seconds": median(worked) if len(worked) == len(results) else None,
        "held_out_examples": min(counted) if len(counted) == len(results) else None,
    }


def _names(results: list[dict[str, Any]]) -> list[str]:
    """The metrics that every seed has, the loss last."""
    common = [name for name in (results[0]["metrics"] if results else {}) if all(name in r["metrics"] for r in results)]
    return sorted(common, key=lambda name: (name in ("loss", "perplexity"), name))


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    sd = stdev(values) if len(values) > 1 else 0.0
    return Spread(median(values), fmean(values), sd, len(values), tuple(values))


def main_metric(rows: Sequence[Row], asked: str | None = None) -> str | None:
    """What the rows are judged by: as asked for, else the first metric but the loss, else the loss.

    None if no row has a metric.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    if asked in names:
        return asked
    return next((name for name in names if name not in ("loss", "perplexity")), "loss" if "loss" in names else None)


def loose(rows: Sequence[Row]) -> tuple[str, ...]:
    """A sentence where the figures of some row are measured on few examples."""
    counts = [row.held_out_examples for row in rows if row.held_out_examples]
    return few_examples(min(counts)) if counts else ()


def spread_text(spread: Spread) -> str:
    """Mean ± standard deviation, two digits behind the point, three below 10; a single seed has no ±."""
    digits = 3 if abs(spread.mean) < 10 else 2
    return f"{spread.mean:.{digits}f}" + (f" ± {spread.sd:.{digits}f}" if spread.n > 1 else "")


def readable_time(seconds: float) -> str:
    """`34 s`, `12 min`, `3 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def count_text(value: float | None, unit: str = "") -> str:
    """Thousands separated; `-` for what is not there."""
    return "-" if value is None else f"{value:,.0f}{unit}"
