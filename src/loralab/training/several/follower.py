"""What all processes of a run but the first have in the place of its files and its words: nothing written, nothing
said. They go through the same steps, evaluations and decisions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loralab.training.log.journal import Journal
from loralab.training.log.samples import Reply, SampleFile


class Silence:
    """Progress that nobody sees."""

    def say(self, sentence: str) -> None:
        """The first process says it."""

    def say_short(self, line: str) -> None:
        """The first process says it."""

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """The first process shows it."""
        yield

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """The first process shows it."""

    def close(self) -> None:
        """There is nothing to close."""


class NoJournal(Journal):
    """A journal without a file."""

    def __init__(self) -> None:
        self.boards = None

    def write(self, entry: dict[str, Any]) -> None:
        """The first process writes it."""

    def close(self) -> None:
        """There is nothing to close."""


class NoSamples(SampleFile):
    """Samples without a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, samples: Sequence[Reply]) -> None:
        """The first process writes them."""
