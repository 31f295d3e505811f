"""Progress of several runs on stderr: one bar over all their steps, and what each says under its name."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from loralab.training.log.progress import LINE_SECONDS, StepsBar


@dataclass
class RunLane:
    """The progress of one run: its sentences are kept, and shown by those who want them."""

    shared: "SharedProgress"
    name: str
    said: list[str] = field(default_factory=list)
    at: int = 0
    loss: float = 0.0

    def say(self, sentence: str) -> None:
        """Kept: most of what one run says, the others say as well."""
        self.said.append(sentence)

    def say_short(self, line: str) -> None:
        """Kept as well."""
        self.said.append(line)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Shown beside the bar."""
        with self.shared.doing(f"{what} {self.name}"):
            yield

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """One step done."""
        self.at, self.loss = step, loss
        self.shared.stepped(self)

    def close(self) -> None:
        """The bar belongs to all of them."""


class SharedProgress(StepsBar):
    """One bar; used as a context."""

    def __init__(self) -> None:
        super().__init__(None)
        self.done = 0

    def __enter__(self) -> "SharedProgress":
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lane(self, name: str) -> RunLane:
        """For one more run."""
        return RunLane(self, name)

    def expect(self, steps: int) -> None:
        """So many steps of all runs together."""
        self.bar.update(self.task, total=steps)

    def stepped(self, lane: RunLane) -> None:
        """One step of one run."""
        self.done += 1
        self.bar.update(self.task, completed=self.done, state=f"step {lane.at}")
        if not self.console.is_terminal and monotonic() - self._spoke > LINE_SECONDS:
            self._spoke = monotonic()
            self.say(f"{self.done} steps  {lane.name} at step {lane.at}  loss {lane.loss:.4f}")
