"""The rows of a comparison that can be set against each other, and by how much one is better than another."""

from collections.abc import Sequence
from dataclasses import dataclass

from loralab.experiments.comparison.rows import Row, Spread, main_metric
from loralab.metrics.table import higher_is_better


@dataclass(frozen=True)
class Comparable:
    """Rows with results in one metric, all trained on the same number of examples."""

    rows: tuple[Row, ...]
    metric: str | None
    """None where nothing was measured."""

    @property
    def lora(self) -> list[Row]:
        """LoRA alone, without a combination."""
        return [row for row in self.rows if row.method == "lora"]

    @property
    def full(self) -> Row | None:
        """Full fine-tuning."""
        return next((row for row in self.rows if row.method == "full"), None)

    def of(self, row: Row) -> Spread:
        """The metric of this row; there must be one."""
        return row.metrics[str(self.metric)]

    def gain(self, row: Row, other: Row) -> float:
        """By how much the mean of `row` is better than that of `other`, in the metric's units."""
        difference = self.of(row).mean - self.of(other).mean
        return difference if higher_is_better(str(self.metric)) else -difference

    def best(self, rows: Sequence[Row]) -> Row:
        """The row with the best mean."""
        sign = 1 if higher_is_better(str(self.metric)) else -1
        return max(rows, key=lambda row: sign * self.of(row).mean)

    def said(self, row: Row) -> str:
        """The row and its figure: `lora r=4, q,v 77.9 ± 0.4 (3 seeds)`."""
        value = self.of(row)
        spread = f" ± {value.sd:.3g} ({value.n} seeds)" if value.n > 1 else " (1 seed)"
        return f"{row.label} {value.mean:.4g}{spread}"

    def beside(self, row: Row, other: Row) -> str:
        """Both with their figures, and by how much `row` is better."""
        gain = self.gain(row, other)
        how = f"better by {gain:.3g}" if gain > 0 else f"worse by {-gain:.3g}" if gain < 0 else "the same"
        return f"{self.metric} of {self.said(row)}, of {self.said(other)}: {how}"

    def within_noise(self, row: Row, other: Row) -> str:
        """A remark where the means differ by no more than the larger of the two standard deviations, else nothing."""
        noise = max(self.of(row).sd, self.of(other).sd)
        return ", within one sd" if 0 < abs(self.gain(row, other)) <= noise else ""


def comparable(rows: Sequence[Row], asked: str | None = None) -> Comparable:
    """The rows with results that were trained on the most examples, judged by `asked` or else the usual metric."""
    metric = main_metric(rows, asked)
    usable = [row for row in rows if row.seeds and (metric is None or metric in row.metrics)]
    most = max((_examples(row) for row in usable), default=0.0)
    return Comparable(tuple(row for row in usable if _examples(row) == most), metric)


def _examples(row: Row) -> float:
    return float("inf") if row.train_examples is None else row.train_examples
