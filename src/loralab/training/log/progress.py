"""Progress on stderr: a live bar in a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from time import monotonic
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from loralab.progress import shown_by

LINE_SECONDS = 10.0
"""Without a terminal, a line at most this often."""


class ShowsProgress(Protocol):
    """Where a run says what it does."""

    def say(self, sentence: str) -> None:
        """A sentence for the log."""

    def say_short(self, line: str) -> None:
        """One line that may be cut."""

    def doing(self, what: str) -> AbstractContextManager[None]:
        """What is done beside the steps while the block lasts."""

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """One step done."""

    def close(self) -> None:
        """The run is over, or left."""


class StepsBar:
    """A bar over steps, and sentences above it."""

    def __init__(self, total: int | None, completed: int = 0) -> None:
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=total, completed=completed, state="")
        self._spoke = monotonic()
        self._alone = ExitStack()

    def open(self) -> None:
        """Show it, and nothing else of what goes on."""
        self._alone.enter_context(shown_by(None))  # the bar says it all
        self.bar.start()

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.stop()
        self._alone.close()

    def say(self, sentence: str) -> None:
        """Lines of their own, above the bar: folded between words in a terminal, and elsewhere one line."""
        self.console.print(sentence, highlight=False, markup=False, soft_wrap=not self.console.is_terminal)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """The bar says what is done beside the steps while the block lasts."""
        self.bar.update(self.task, description=what)
        try:
            yield
        finally:
            self.bar.update(self.task, description="training")


class RunProgress(StepsBar):
    """What a run says while it runs."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__(last, first - 1)
        self.last = last
        self.open()

    def say_short(self, line: str) -> None:
        """One line, cut to the terminal's width."""
        self.console.print(line, highlight=False, markup=False, no_wrap=True, overflow="ellipsis", crop=True)

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """One step done."""
        self.bar.update(self.task, completed=step, state=f"loss {loss:.3f} · {tokens_per_second:,.0f} tok/s")
        due = monotonic() - self._spoke > LINE_SECONDS
        if not self.console.is_terminal and (due or step in (1, self.last)):
            self._spoke = monotonic()
            self.say(f"step {step}/{self.last}  loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s")
