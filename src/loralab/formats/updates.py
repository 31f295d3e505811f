"""The factor pairs of a PEFT adapter as they lie in its file, taken apart by their names without any model."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from loralab.core.updates.factors import Recipe
from loralab.core.updates.update import WHOLE
from loralab.errors import AdapterFileError
from loralab.formats.peft.config import PeftConfig
from loralab.formats.peft.layout import EMBEDDING_A, EMBEDDING_B, OUTPUT_TWICE, A, B
from loralab.formats.record import Runs
from loralab.formats.sidecar import Sidecar

WRAPPED = "base_layer"
OUTPUT = f".{WRAPPED}.out_proj"


@dataclass(frozen=True)
class FilePair:
    """One A and B of the file, for the module or raw parameter `name`; `kind` is how they multiply."""

    name: str
    kind: str
    keys: tuple[str, str]
    A: Tensor
    B: Tensor
    recipe: Recipe
    rows: Runs | None = None
    """Of the module's weight, where the pair is for a part of it: `c_attn.q`."""

    def __post_init__(self) -> None:
        """AdapterFileError where A and B cannot be multiplied."""
        if not self._fit():
            raise AdapterFileError(
                f"{self.keys[0]} {list(self.A.shape)} and {self.keys[1]} {list(self.B.shape)} are no factors of one "
                "update; get the file again"
            )

    def _fit(self) -> bool:
        A, B = self.A, self.B
        if min(A.dim(), B.dim()) < 2 or not A.numel() or not B.numel():
            return False
        if self.kind == "parameters":
            return A.shape[-2] == B.shape[-1]
        if self.kind == "experts":
            return len(A) == B.shape[1]
        rank = B[0].numel()
        return len(A) % rank == 0 and len(B) % (len(A) // rank) == 0

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
        """‖ΔW‖_F, from the Gram matrices of the thin factors: ‖B·A‖² = Σ (A·Aᵀ) ∘ (Bᵀ·B)."""
        A_GRI, B_GOR = self.matrices()
        squared = ((A_GRI @ A_GRI.mT) * (B_GOR.mT @ B_GOR)).sum()
        return abs(self.scale) * math.sqrt(max(float(squared), 0.0))

    @property
    def by_key(self) -> dict[str, Tensor]:
        """A and B by their keys in the file."""
        return dict(zip(self.keys, (self.A, self.B), strict=True))

    @property
    def scale(self) -> float:
        """s of ΔW = s·B·A: alpha/rank, twice that where PEFT's layout adds the update twice."""
        return self.recipe.scale * (OUTPUT_TWICE if self.kind == "attention output" else 1.0)

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


def file_pairs(
    config: PeftConfig, tensors: Mapping[str, Tensor], sidecar: Sidecar | None
) -> tuple[list[FilePair], dict[str, Tensor]]:
    """(factor pairs, the other tensors) of a file whose names are plain; AdapterFileError where a factor is missing."""
    pairs, others = [], dict(tensors)
    for key in tensors:
        for end_A, end_B in ((f".{A}", f".{B}"), (f".{EMBEDDING_A}", f".{EMBEDDING_B}")):
            if key.endswith(end_A):
                stem = key.removesuffix(end_A)
                if stem + end_B not in tensors:
                    raise AdapterFileError(f"{stem + end_B} is missing beside {key}; get the file again")
                values = others.pop(key), others.pop(stem + end_B)
                pairs.append(_pair(config, sidecar, stem, (key, stem + end_B), values))
    return pairs, others


def base_copies(pairs: Iterable[FilePair], others: Collection[str]) -> set[str]:
    """Keys of the copies of the base's own embeddings that PEFT puts beside the factors of those it adapts."""
    return {f"{pair.name}.{WRAPPED}.weight" for pair in pairs} & set(others)


def _pair(
    config: PeftConfig, sidecar: Sidecar | None, stem: str, keys: tuple[str, str], values: tuple[Tensor, Tensor]
) -> FilePair:
    output = stem.endswith(OUTPUT)
    path = plain_path(stem.removesuffix(OUTPUT) if output else stem)
    name = path if output else _parameter_name(config, sidecar, path, stem) or path
    recipe = config.recipe(name)
    if name == f"{path}.{WHOLE}" and len(values[0]) == recipe.rank:
        name = path
    kind = "linear" if values[0].dim() == 2 else "conv"
    if keys[0].endswith(EMBEDDING_A):
        kind = "embedding"
    elif output:
        kind = "attention output"
    elif name != path and len(values[0]) != recipe.rank:
        kind = "experts"
    return FilePair(f"{path}.out_proj" if output else name, kind, keys, *values, recipe)


def plain_path(keyed: str) -> str:
    """A module's path from its key: without `base_layer`."""
    return ".".join(piece for piece in keyed.split(".") if piece != WRAPPED)


def _parameter_name(config: PeftConfig, sidecar: Sidecar | None, path: str, stem: str) -> str | None:
    """`<path>.<parameter>` where the pair belongs to a raw parameter: the outermost wrapper is the last parameter's."""
    names = list(_parameters_of(config, sidecar, path))
    depth = sum(1 for _ in takewhile(lambda piece: piece == WRAPPED, reversed(stem.split("."))))
    return f"{path}.{names[-1 - depth]}" if depth < len(names) else None


def _parameters_of(config: PeftConfig, sidecar: Sidecar | None, path: str) -> Iterator[str]:
    if sidecar is not None:
        record = sidecar.modules.get(path)
        yield from record.parts if record is not None and record.kind == "parameters" else ()
        return
    targets = config.targets if isinstance(config.targets, tuple) else ()
    for name in config.target_parameters:
        module, _, parameter = name.rpartition(".")
        if _ends_in(path, module) if module else not any(_ends_in(path, target) for target in targets):
            yield parameter


def _ends_in(path: str, name: str) -> bool:
    return path == name or path.endswith("." + name)
