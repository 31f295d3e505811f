"""The factor pairs of a PEFT adapter as they lie in its file, taken apart by their names without any model."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from loralab.core.thin import Thin
from loralab.core.updates.factors import Recipe
from loralab.core.updates.update import WHOLE
from loralab.errors import AdapterFileError
from loralab.formats.peft.config import PeftConfig
from loralab.formats.peft.layout import EMBEDDING_A, OUTPUT_TWICE, A
from loralab.formats.record import Runs
from loralab.formats.sidecar import Sidecar

WRAPPED = "base_layer"
OUTPUT = f".{WRAPPED}.out_proj"


@dataclass(frozen=True)
class StoredUpdate:
    """One A and B of the file, for the module or raw parameter `name`; `kind` is how they multiply."""

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


_FACTOR = re.compile(r"(?P<stem>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(?P<end>\.weight)?")


def is_factor(key: str) -> bool:
    """Whether a tensor of this name is the A or B of a pair."""
    return _FACTOR.fullmatch(key) is not None


def factor_keys(tensors: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(key of A, key of B) of every pair of which at least one is there, in the order of their A."""
    matches = [match for key in tensors if (match := _FACTOR.fullmatch(key))]
    stems = [(f"{match['stem']}.lora_{match['embedding'] or ''}", match["end"] or "") for match in matches]
    in_order = sorted(zip(matches, stems, strict=True), key=lambda each: each[0]["factor"])
    return ((f"{start}A{end}", f"{start}B{end}") for start, end in dict.fromkeys(stem for _, stem in in_order))


def base_copies(pairs: Iterable[StoredUpdate], others: Collection[str]) -> set[str]:
    """Keys of the copies of the base's own embeddings that PEFT puts beside the factors of those it adapts."""
    return {f"{pair.name}.{WRAPPED}.weight" for pair in pairs} & set(others)


def stored_update(
    config: PeftConfig, sidecar: Sidecar | None, keys: tuple[str, str], tensors: Mapping[str, Tensor]
) -> StoredUpdate:
    """The update of two factors in PEFT's layout, from their plain names."""
    A_values, B_values = (tensors[key] for key in keys)
    stem = keys[0].removesuffix(f".{A}").removesuffix(f".{EMBEDDING_A}")
    output = stem.endswith(OUTPUT)
    path = plain_path(stem.removesuffix(OUTPUT) if output else stem)
    name = path if output else _parameter_name(config, sidecar, path, stem) or path
    recipe = config.recipe(name)
    if name == f"{path}.{WHOLE}" and len(A_values) == recipe.rank:
        name = path
    kind = "linear" if A_values.dim() == 2 else "conv"
    if keys[0].endswith(EMBEDDING_A):
        kind = "embedding"
    elif output:
        kind = "attention output"
    elif name != path and len(A_values) != recipe.rank:
        kind = "experts"
    return StoredUpdate(f"{path}.out_proj" if output else name, kind, keys, A_values, B_values, recipe)


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
