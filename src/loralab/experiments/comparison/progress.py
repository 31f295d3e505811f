"""Progress of a comparison on stderr: a live table in a terminal, a line per cell elsewhere."""

from collections.abc import Sequence
from time import monotonic

from rich.console import Console
from rich.live import Live
from rich.table import Table

from loralab.errors import some
from loralab.experiments.comparison.cells import Cell
from loralab.experiments.comparison.process import Outcome
from loralab.experiments.comparison.rows import Row, main_metric, readable_time, rows_of, spread_text

ROWS_BESIDE = 6
"""Lines of the terminal that the table's own frame and what was there before need."""


class ComparisonProgress:
    """What is done, what runs and what is left; used as a context."""

    def __init__(self, cells: Sequence[Cell], asked_metric: str | None) -> None:
        self.cells, self.asked_metric = cells, asked_metric
        self.outcomes: list[Outcome] = []
        self.running: dict[str, float] = {}
        """When each cell that is not finished was begun, by its name."""
        self.started = monotonic()
        self.console = Console(stderr=True)
        self.live = Live(get_renderable=self.table, console=self.console, refresh_per_second=1, transient=True)

    def __enter__(self) -> "ComparisonProgress":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running.clear()
        self.live.stop()

    def start(self, cell: Cell) -> None:
        """This cell begins to train."""
        self.running[cell.name] = monotonic()
        if not self.console.is_terminal:
            self._say(f"cell {len(self.outcomes) + len(self.running)}/{len(self.cells)}  {cell.name} …")

    def end(self, outcome: Outcome) -> None:
        """A cell ended, now or in an earlier process."""
        began = self.running.pop(outcome.cell.name, None)
        self.outcomes.append(outcome)
        how = "finished before" if began is None else f"in {readable_time(monotonic() - began)}"
        if not self.console.is_terminal:
            self._say(
                f"cell {len(self.outcomes)}/{len(self.cells)}  {outcome.cell.name}  {self._came_of(outcome)}, {how}"
            )
        elif outcome.failure is not None:
            self._say(f"{outcome.cell.name}  {self._came_of(outcome)}")

    def table(self) -> Table:
        """The rows so far, one per setting, as many as the terminal has room for."""
        rows = rows_of(self.outcomes)
        metric = main_metric(rows, self.asked_metric)
        elapsed = readable_time(monotonic() - self.started)
        title = f"{len(self.outcomes)} of {len(self.cells)} cells, {elapsed}"
        table = Table(title=title, title_justify="left", caption=self._now(), caption_justify="left", expand=False)
        for name in ("method", "setting", "examples", "seeds"):
            table.add_column(name)
        for name in (metric or "metric", "tokens/s"):
            table.add_column(name, justify="right")
        for row in rows[-max(1, self.console.height - ROWS_BESIDE) :]:
            table.add_row(*_cells_of(row, metric))
        return table

    def _now(self) -> str:
        if not self.running:
            return ""
        first = next(iter(self.running.values()))
        return f"training {some(self.running, most=1)}, {readable_time(monotonic() - first)}"

    def _came_of(self, outcome: Outcome) -> str:
        if outcome.result is None:
            return f"failed: {outcome.failure}"
        metrics = outcome.result["metrics"]
        return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items()) or "trained"

    def _say(self, sentence: str) -> None:
        self.console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _cells_of(row: Row, metric: str | None) -> list[str]:
    seeds = f"{len(row.seeds)}" + (f", {len(row.failed)} failed" if row.failed else "")
    examples = "all" if row.train_examples is None else f"{row.train_examples:,}"
    value = spread_text(row.metrics[metric]) if metric in row.metrics and metric is not None else "-"
    speed = "-" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}"
    return [row.method, row.described(), examples, seeds, value, speed]
