"""What a verb of the command line is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Answer = dict[str, Any]
Config = TypeVar("Config")


def listens(config: Any) -> bool:
    """Of most verbs: nothing is on stdout before the answer."""
    return False


def done(answer: Answer) -> int:
    """The exit status of a verb that did what was asked: 0."""
    return 0


@dataclass(frozen=True)
class Verb(Generic[Config]):
    """A verb: `config` is a frozen dataclass, one field per flag; `run` does the work and returns the answer.

    `run` imports what is heavy inside itself, so that `--help` never waits for torch; `show` prints it
    for people, while `--json` prints the answer as it is.
    """

    config: type[Config]
    run: Callable[[Config], Answer]
    show: Callable[[Answer], None]
    example: str
    status: Callable[[Answer], int] = done
    """The exit status after the answer is printed: for a check, whether it was passed."""
    essentials: tuple[str, ...] = ()
    """The fields that are usually given, of a verb that has many: `--help` shows no others."""
    talks: Callable[[Config], bool] = listens
    """Whether `run` writes on stdout itself, while it runs; with `--json` that goes to stderr, as everywhere."""
    needs: tuple[str, ...] = ()
    """The extras that it cannot do without, whatever it is told: asked for before it runs."""
