"""Every error that loralab raises on purpose.

Each is a `LoralabError` and also the standard-library type that a caller would expect, so that both
`except ll.LoralabError` and `except ValueError` do what they say. The command line turns any of them into
`error: …` and exit status 2. A message says what was asked, what was found, and what to do.
"""

from collections.abc import Iterable

LONGEST = 200
"""Characters of a name in a message: files of anybody's may have a megabyte in the place of one."""

LONGEST_MESSAGE, ITS_END = 4000, 500
"""Characters of a whole message, and of those that are its end: that is where it says what to do."""


def listed(items: Iterable[str], most: int = 12, between: str = "; ") -> str:
    """Problems in one line: the first ones, and how many more there are."""
    every = list(items)
    return between.join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def some(names: Iterable[str], most: int = 3) -> str:
    """The first names of many: `a, b, c and 4 more`; of a name that no screen holds, its beginning."""
    return listed((name if len(name) <= LONGEST else f"{name[:LONGEST]}…" for name in names), most, between=", ")


def first_line(error: BaseException) -> str:
    """What an error of another library says, to go on within a sentence: without what it explains below, and without
    its stop; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


class LoralabError(Exception):
    """The root: catch this to catch everything that loralab refuses. What it quotes may be a file's megabyte: of a
    message that nobody would read to its end, the middle is left out."""

    is_known_to_all: bool | None = None
    """Of several processes: whether all raise it, or this one alone. None before they have met."""
    is_of_a_lost_process = False
    """Whether it is what the other processes of a run notice of one that has gone."""

    def __str__(self) -> str:
        text = super().__str__()
        left_out = len(text) - LONGEST_MESSAGE
        if left_out <= 0:
            return text
        return f"{text[: LONGEST_MESSAGE - ITS_END]} … {left_out:,} characters … {text[-ITS_END:]}"


class SpecError(LoralabError, ValueError):
    """A specification or configuration holds an invalid value."""


class TargetError(LoralabError, LookupError):
    """A target names no module of the model, or one that cannot be adapted."""


class AdapterStateError(LoralabError, RuntimeError):
    """The model is in the wrong state for this: merged, already attached, or without such an adapter."""


class AdapterFileError(LoralabError, ValueError):
    """An adapter on disk cannot be used: missing, extra, misshapen or non-finite tensors, or a damaged file."""


class FingerprintError(LoralabError, ValueError):
    """The adapter was trained on another base model than the one it is loaded into."""


class NumericsError(LoralabError, ArithmeticError):
    """A number is NaN or infinite, or a verification found a difference beyond its tolerance."""


class DataError(LoralabError, ValueError):
    """A data file or its content cannot be used."""


class ModelLoadError(LoralabError, ValueError):
    """A model was found but cannot be loaded as asked."""


class NotFoundError(LoralabError, FileNotFoundError):
    """A model, data file, adapter or package resource does not exist."""


class OutputError(LoralabError, OSError):
    """An output cannot be written: it exists already, the disk is full, or the folder is not writable."""


class MissingDependencyError(LoralabError, ImportError):
    """An optional package or program is needed for this; the message names the command that installs it."""


class TrainingError(LoralabError, RuntimeError):
    """A training run cannot go on: no gradient where one is due, a loss that is not finite, an unfit checkpoint."""


class UnknownAdapterError(LoralabError, LookupError):
    """No adapter of this name is on the model."""


class ProcessError(LoralabError, RuntimeError):
    """The processes of one run do not find each other, see different things, or one of them has gone."""
