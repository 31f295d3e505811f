"""An adapter as it lies on disk, without any model. `read.py` reads it.

Whatever is wrong with it becomes a finding and the rest is still there. `demand` is for who needs a sound one,
`findings` for who says all that is wrong. Tensors are mapped into memory, not read, and taken apart into updates only
where somebody asks for these.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from loralab.core.plan import Plan
from loralab.core.thin import Thin, numerical_rank
from loralab.core.updates.factors import Recipe
from loralab.errors import AdapterFileError, LoralabError
from loralab.files.names import CONFIG_NAME, OWN_TYPE, PLAIN_NAME, TENSORS_NAME
from loralab.files.tensors import TensorFile
from loralab.formats.peft.config import LORA_BIAS, TYING, PeftConfig, PeftVeraConfig
from loralab.formats.peft.keys import WRAPPED
from loralab.formats.peft.layout import OUTPUT_TWICE
from loralab.formats.record import Runs
from loralab.formats.sidecar import Sidecar

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
class StoredUpdate:
    """One A and B of the file, for the module or raw parameter `name`; `kind` is how they multiply.

    PEFT's layout packs the parts of a fused projection into one pair (`resize.Piece` is what one of them has of it).
    Shapes: G groups or experts, R rank, I inputs, O outputs.
    """

    name: str
    kind: str
    keys: tuple[str, str]
    A: Tensor
    B: Tensor
    recipe: Recipe
    rows: Runs | None = None
    """Of the module's weight, where the pair is for a part of it: `c_attn.q`."""

    @property
    def fits(self) -> bool:
        """Whether A and B can be multiplied."""
        A, B = self.A, self.B
        if min(A.dim(), B.dim()) < 2 or not A.numel() or not B.numel():
            return False
        if self.kind == "parameters":
            return A.shape[-2] == B.shape[-1]
        if self.kind == "experts":
            return len(A) == B.shape[1]
        rank = B[0].numel()
        return len(A) % rank == 0 and len(B) % (len(A) // rank) == 0

    @property
    def module(self) -> str:
        """The path of the module that it belongs to, or of the raw parameter: what rank_pattern calls it."""
        return self.name.removesuffix(".out_proj") if self.of_output else self.name

    @property
    def of_output(self) -> bool:
        """Whether it is of the output projection of an nn.MultiheadAttention, which PEFT's layout has apart."""
        return self.kind == "attention output"

    def _experts(self) -> int:
        """Of how many experts this holds the factors, one below the other."""
        experts, left = divmod(len(self.A), self.recipe.rank)
        if left:
            raise AdapterFileError(
                f"{self.keys[0]} has {len(self.A)} rows, no multiple of the rank {self.recipe.rank} that its "
                "configuration gives it: by bare names only the model can tell which parameter it belongs to; load it "
                "there and ll.save it"
            )
        return experts

    @property
    def part_of(self) -> str | None:
        """The path of that module: `c_attn`."""
        return None if self.rows is None else self.name.rpartition(".")[0]

    @property
    def is_dead(self) -> bool:
        """Whether the update is zero because A or B is."""
        return not bool(self.A.any()) or not bool(self.B.any())

    def delta_norm(self) -> float:
        """‖ΔW‖_F."""
        return abs(self.scale) * Thin(*self.matrices()).norm()

    @property
    def by_key(self) -> dict[str, Tensor]:
        """A and B by their keys in the file."""
        return dict(zip(self.keys, (self.A, self.B), strict=True))

    @property
    def scale(self) -> float:
        """s of ΔW = s·B·A: alpha/rank, twice that where PEFT's layout adds the update twice."""
        return self.recipe.scale * (OUTPUT_TWICE if self.of_output else 1.0)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """(A [G, R, I], B [G, O, R]) in float64, without the scale; G groups of a convolution or experts."""
        A_double, B_double = self.A.double(), self.B.double()
        if self.kind == "parameters":
            return A_double.reshape(-1, *A_double.shape[-2:]), B_double.reshape(-1, *B_double.shape[-2:])
        if self.kind == "experts":
            E = self._experts()
            return torch.unflatten(A_double, 0, (E, -1)), torch.unflatten(B_double, 1, (-1, E)).permute(2, 0, 1)
        A_RI, B_OR = A_double.flatten(1), B_double.flatten(1)
        groups = len(A_RI) // B_OR.shape[1]
        return torch.unflatten(A_RI, 0, (groups, -1)), torch.unflatten(B_OR, 0, (groups, -1))

    def groups(self) -> Iterator["StoredUpdate"]:
        """Updates of one matrix each, in float64: of every group of a convolution, of every expert."""
        A_GRI, B_GOR = self.matrices()
        for number, (A_RI, B_OR) in enumerate(zip(A_GRI, B_GOR, strict=True)):
            yield replace(self, name=f"{self.name}[{number}]" if len(A_GRI) > 1 else self.name, A=A_RI, B=B_OR)

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I), of a ΔW that is one matrix."""
        return len(self.B), self.A.shape[1]

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """(U [O, K], σ [K] falling, V [I, K]) of a ΔW that is one matrix, the scale included.

        K is the numerical rank; it is 0 for an update that is zero.
        """
        U, sigma, V = Thin.of(self.A, self.B, self.scale).svd
        kept = numerical_rank(sigma, sum(self.shape))
        return U[:, :kept], sigma[:kept], V[:, :kept]


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
        return Parted() if self.file is None else self.layout.part(self)

    @property
    def entries(self) -> tuple[StoredUpdate, ...]:
        """The pairs A, B whose factors are there, are finite and fit each other."""
        return self.parted.entries

    @property
    def updates(self) -> list[StoredUpdate]:
        """The entries without those that are zeros in the place of what is not adapted."""
        return [entry for entry in self.parted.entries if not _is_padding(entry, self.sidecar)]

    @property
    def others(self) -> Mapping[str, Tensor]:
        """The tensors that are not low-rank factors, by key."""
        return self.parted.others

    @property
    def base_copies(self) -> set[str]:
        """Keys of the copies of the base's own embeddings that PEFT puts beside the factors of those it adapts."""
        return {f"{pair.name}.{WRAPPED}.weight" for pair in self.entries} & self.others.keys()

    @property
    def idle_insertions(self) -> list[str]:
        """Keys of the tensors of inserted layers and prefixes that are zero throughout."""
        inserted = self.inserted
        return [key for key, each in self.others.items() if key.rpartition(".")[0] in inserted and not bool(each.any())]

    @property
    def inserted(self) -> list[str]:
        """Modules with layers or prefixes of the adapter's own."""
        return [] if self.sidecar is None else [path for path, each in self.sidecar.modules.items() if each.settings]

    def refuse_without_base(self, to: str) -> None:
        """AdapterFileError for what cannot be told without the model, where it becomes `to` by its files alone."""
        config = self.config or PeftConfig(8, 8.0)
        said = [name for name, given in ((LORA_BIAS, config.bias_of_B), (TYING, config.ties_weights)) if given]
        if said:
            raise AdapterFileError(
                f"{self.source} cannot become {to} by its files alone: only its base tells what its "
                f"{' and '.join(said)} means; ll.load it there and ll.save it into another folder, which says the same "
                "without, and take that"
            )

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


def _is_padding(update: StoredUpdate, sidecar: Sidecar | None) -> bool:
    """Zeros that stand for the half of an nn.MultiheadAttention that is not adapted."""
    record = None if sidecar is None else sidecar.modules.get(update.module)
    if record is None or record.kind != "attention" or not update.is_dead:
        return False
    return "out" not in record.parts if update.of_output else set(record.parts) == {"out"}


@dataclass(frozen=True)
class FileLayout:
    """A way in which adapters lie in files, and what is done differently for it."""

    peft_type: str | None
    """What adapter_config.json calls it; None for a checkpoint."""
    understand: Callable[[StoredAdapter, Problems], StoredAdapter]
    """Fills in what the configuration means."""
    part: Callable[[StoredAdapter], Parted]
    """Its tensors, taken apart."""
    place: Callable[[StoredAdapter, nn.Module], Plan]
    """Its updates for a model, filled; AdapterFileError listing all that does not fit. The model is not changed."""
    spec: Callable[[StoredAdapter, Plan], object]
    """The specification that comes nearest, where loralab.json does not say it."""
    method: Callable[[StoredAdapter], str]
