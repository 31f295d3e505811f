"""Progress on stderr: a live bar in a terminal, plain lines elsewhere."""

from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0
"""Without a terminal, a line at most this often."""


class RunProgress:
    """What a run says while it runs."""

    def __init__(self, first: int, last: int) -> None:
        self.last = last
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f} · {task.fields[speed]:,.0f} tok/s"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=last, completed=first - 1, loss=float("nan"), speed=0.0)
        self._spoke = monotonic()
        self.bar.start()

    def say(self, sentence: str) -> None:
        """A line of its own, above the bar."""
        self.console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """One step done."""
        self.bar.update(self.task, completed=step, loss=loss, speed=tokens_per_second)
        due = monotonic() - self._spoke > LINE_SECONDS
        if not self.console.is_terminal and (due or step in (1, self.last)):
            self._spoke = monotonic()
            self.say(f"step {step}/{self.last}  loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s")

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.stop()
