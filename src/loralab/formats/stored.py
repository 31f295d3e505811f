"""An adapter as it lies on disk, without any model. `read.py` reads it.

Whatever is wrong with it becomes a finding and the rest is still there. `demand` is for who needs a sound one,
`findings` for who says all that is wrong. Tensors are mapped into memory, not read, and taken apart into updates only
where somebody asks for these.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from torch import Tensor, nn

from loralab.core.plan import Plan
from loralab.errors import AdapterFileError, LoralabError, some
from loralab.files.names import CONFIG_NAME, PLAIN_NAME, TENSORS_NAME
from loralab.files.tensors import TensorFile, is_finite
from loralab.formats.peft.config import OWN_TYPE, PeftConfig
from loralab.formats.peft.vera import PeftVeraConfig
from loralab.formats.sidecar import Sidecar
from loralab.formats.updates import (
    Piece,
    StoredUpdate,
    factor_keys,
    pieces_of,
)

# -- what is wrong ---------------------------------------------------------------------------------------------------

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


# -- what is there ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parted:
    """The tensors of an adapter, taken apart."""

    entries: tuple[StoredUpdate, ...] = ()
    """The pairs A, B whose factors are there, are finite and fit each other."""
    others: Mapping[str, Tensor] = field(default_factory=dict)
    """The tensors that are not low-rank factors, by key."""
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, eq=False)
class StoredAdapter:
    """What an adapter's files hold, as far as they can be read, and what is wrong with them."""

    source: Path
    layout: "FileLayout"
    content: Mapping[str, Any] = field(default_factory=dict)
    """adapter_config.json, as that of plain LoRA where it was of a dialect; empty where it cannot be read."""
    config: PeftConfig | None = None
    """Of PEFT's LoRA; what tells its ranks and scales where it asks for more than can be honoured."""
    vera: PeftVeraConfig | None = None
    """Of PEFT's VeRA."""
    sidecar: Sidecar | None = None
    file: TensorFile | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """By the keys of the file; those of plain LoRA where it was of a dialect."""
    named: Mapping[str, Tensor] = field(default_factory=dict)
    """By their keys without PEFT's prefix and the names of wrappers."""
    alpha: float | None = None
    """Of a loralib checkpoint: as it was given, or recorded by who wrote the file; None where it is not known."""
    why_not_peft: tuple[str, ...] = ()
    """Of loralab's own layout."""
    rank_stabilized: bool = False
    """Of a loralib checkpoint: whether scales are α/√r, which it does not record either."""
    said: tuple[str, ...] = ()
    """What the reader of a dialect has to say."""
    reading: tuple[Problem, ...] = ()
    """What was wrong with the files, before any look at the tensors in them."""

    def readable(self) -> "StoredAdapter":
        """This adapter, or an error where a file is missing, damaged or asks for what cannot be honoured."""
        refuse(self.source, self.reading)
        return self

    def demand(self) -> "StoredAdapter":
        """This adapter, or an error listing all that is wrong with the files and the tensors in them."""
        refuse(self.source, [*self.reading, *self.parted.problems])
        return self

    @property
    def findings(self) -> list[Finding]:
        """All that is wrong."""
        advice = "loralab convert --to peft writes that plain LoRA"
        problems = [problem.finding for problem in (*self.reading, *self.parted.problems)]
        return [*problems, *(Finding("note", CONFIG_NAME, note, advice) for note in self.said)]

    @cached_property
    def parted(self) -> Parted:
        """The tensors, taken apart."""
        return Parted() if self.file is None else _take_apart(self)

    @property
    def entries(self) -> tuple[StoredUpdate, ...]:
        """The pairs A, B whose factors are there, are finite and fit each other."""
        return self.parted.entries

    @property
    def updates(self) -> list[StoredUpdate]:
        """The entries without those that are zeros in the place of what is not adapted."""
        return [entry for entry in self.parted.entries if not _is_padding(entry, self.sidecar)]

    @cached_property
    def pieces_by_entry(self) -> list[tuple[StoredUpdate, list[Piece]]]:
        """Every A and B of the file, with the modules' own updates in them."""
        return [(entry, pieces_of(entry, self.sidecar, self.is_own)) for entry in self.entries]

    @property
    def pieces(self) -> list[Piece]:
        """The modules' own updates, in the order of the file."""
        return [piece for _, pieces in self.pieces_by_entry for piece in pieces]

    @property
    def others(self) -> Mapping[str, Tensor]:
        """The tensors that are not low-rank factors, by key."""
        return self.parted.others

    @property
    def count(self) -> int:
        """How many tensors are in the file."""
        return 0 if self.file is None else len(self.file.tensors)

    @property
    def name(self) -> str:
        """What it is called after its folder or file."""
        return name_for(self.source)

    @property
    def method(self) -> str:
        """As the command line calls it."""
        return self.layout.method(self)

    @property
    def is_own(self) -> bool:
        """Whether only loralab can read it."""
        return self.layout.peft_type == OWN_TYPE

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is a file of loralib's."""
        return self.layout.peft_type is None

    @property
    def alpha_is_known(self) -> bool:
        """Where it is not, scales are those of alpha 1."""
        return not self.is_checkpoint or self.alpha is not None

    @property
    def where(self) -> str:
        """The file of the tensors, as findings name it."""
        return self.source.name if self.is_checkpoint else TENSORS_NAME

    @property
    def has_plain(self) -> bool:
        """Whether the plain LoRA that it comes to lies beside it; its configuration is written last."""
        return self.is_own and (self.source / PLAIN_NAME / CONFIG_NAME).is_file()


def name_for(path: Path) -> str:
    """An adapter's name from its folder or file: what may not be in a name becomes '-'."""
    stem = path.resolve().name if path.is_dir() else path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-") or "default"


# -- the tensors ----------------------------------------------------------------------------------------------------


def _take_apart(stored: StoredAdapter) -> Parted:
    """Sort the tensors into whole pairs and others; what cannot be used is a problem."""
    problems, where, tensors = Problems(), stored.where, stored.named
    spoilt = _spoilt(stored, problems)
    keys = [(A, B) for A, B in factor_keys(tensors) if not stored.is_checkpoint or A.endswith(".lora_A")]
    lost = [key for pair in keys for key in pair if key not in tensors]
    whole = {A: (A, B) for A, B in keys if A in tensors and B in tensors and not {A, B} & spoilt}
    loose = {key: each for key, each in tensors.items() if key not in spoilt.union(*keys)}
    entries, others = stored.layout.part(stored, list(whole.values()), loose, problems)
    unfit = [f"{key} {list(each.shape)}" for entry in entries if not entry.fits for key, each in entry.by_key.items()]
    if lost:
        problems.add(where, f"{some(lost)} {'is' if len(lost) == 1 else 'are'} missing beside the other factor", AGAIN)
    if unfit:
        problems.add(where, f"{some(unfit)} do not fit each other", AGAIN)
    return Parted(tuple(each for each in entries if each.fits), others, tuple(problems.seen))


def _spoilt(stored: StoredAdapter, problems: Problems) -> set[str]:
    """Keys of tensors that hold NaN or infinity, or nothing."""
    empty = [key for key, each in stored.named.items() if each.numel() == 0]
    infinite = [key for key, each in stored.named.items() if not is_finite(each)]
    where = stored.where
    if empty:
        advice = "gather sharded weights before saving, and save again"
        problems.add(where, f"{len(empty)} tensors are empty: {some(empty)}", advice)
    if infinite:
        advice = "go back to an earlier checkpoint and train with a lower learning rate"
        problems.add(where, f"{len(infinite)} tensors hold NaN or infinite values: {some(infinite)}", advice)
    if not stored.named:
        problems.add(where, "it holds no tensors", AGAIN)
    return {*empty, *infinite}


def _is_padding(update: StoredUpdate, sidecar: Sidecar | None) -> bool:
    """Zeros that stand for the half of an nn.MultiheadAttention that is not adapted."""
    record = None if sidecar is None else sidecar.modules.get(update.module)
    if record is None or record.kind != "attention" or not update.is_dead:
        return False
    return "out" not in record.parts if update.of_output else set(record.parts) == {"out"}


Keys = list[tuple[str, str]]
"""Of A and B."""
Tensors = Mapping[str, Tensor]
UpdatesAndOthers = tuple[list[StoredUpdate], Tensors]


@dataclass(frozen=True)
class FileLayout:
    """A way in which adapters lie in files, and what is done differently for it."""

    peft_type: str | None
    """What adapter_config.json calls it; None for a checkpoint."""
    understand: Callable[[StoredAdapter, Problems], StoredAdapter]
    """Fills in what the configuration means."""
    part: Callable[[StoredAdapter, Keys, Tensors, Problems], UpdatesAndOthers]
    """From the keys of whole pairs and the other tensors to (the updates, the tensors that belong to none)."""
    place: Callable[[StoredAdapter, nn.Module], Plan]
    """Its updates for a model, filled; AdapterFileError listing all that does not fit. The model is not changed."""
    spec: Callable[[StoredAdapter, Plan], object]
    """The specification that comes nearest, where loralab.json does not say it."""
    method: Callable[[StoredAdapter], str]
