"""What is wrong with an adapter, as data: to be listed for whoever asks, or raised where a sound one is needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from loralab.errors import AdapterFileError, LoralabError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

AGAIN = "get or save the adapter again"
UNEXPECTED = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)
"""What a value of the wrong type, deep in a damaged file, raises where it is used."""
Read = TypeVar("Read")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: an error spoils the adapter, a warning may; a note is for its use elsewhere."""

    severity: Severity
    where: str
    """A file, a module, or another program."""
    what: str
    advice: str
    """What to do."""


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Sorted by severity, each once."""
    return sorted(dict.fromkeys(findings), key=lambda each: SEVERITIES.index(each.severity))


class Problem(NamedTuple):
    """Something that is wrong with an adapter: to be said, and to be raised."""

    finding: Finding
    error: LoralabError | None = None
    """What a reader raised; None where nothing was raised yet."""

    def __str__(self) -> str:
        return f"{self.finding.what}; {self.finding.advice}" if self.error is None else str(self.error)


class Problems:
    """What has been wrong so far with an adapter that is being read."""

    def __init__(self) -> None:
        self.seen: list[Problem] = []

    def attempt(self, where: str, advice: str, read: Callable[[], Read]) -> Read | None:
        """What `read` gives; None and a problem where it raises."""
        try:
            return read()
        except LoralabError as error:
            self.seen.append(Problem(Finding("error", where, str(error), advice), error))
        except UNEXPECTED as cause:
            what = f"{type(cause).__name__}: {cause}"
            self.add(where, f"reading it fails where it should not: {what}; a value is of a wrong type", AGAIN)
        return None

    def add(self, where: str, what: str, advice: str) -> None:
        """A problem that no reader raised."""
        self.seen.append(Problem(Finding("error", where, what, advice)))


def refuse(source: Path, problems: Sequence[Problem]) -> None:
    """Raise what a reader raised, if that is all; an AdapterFileError listing the problems where there are several."""
    if not problems:
        return
    first = problems[0].error
    if first is not None and (len(problems) == 1 or not isinstance(first, AdapterFileError)):
        raise first
    raise AdapterFileError(f"{source} cannot be read: {'; '.join(dict.fromkeys(map(str, problems)))}") from first
