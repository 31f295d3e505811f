"""The updates of an adapter as they lie in its file, told apart by names and loralab.json alone, without any model.

A `StoredUpdate` is a pair A, B of the file. PEFT's layout packs the parts of a fused projection into one pair; a
`Piece` is the update of one of them. Shapes: G groups or experts, R rank, I inputs, O outputs.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

import torch
from torch import Tensor

from loralab.core.adapter import SHARED
from loralab.core.thin import Thin
from loralab.core.updates.factors import Recipe, SharedMatrices, Spot
from loralab.core.updates.update import WHOLE
from loralab.errors import AdapterFileError, listed
from loralab.files.tensors import problems_of
from loralab.formats.peft.config import PeftConfig
from loralab.formats.peft.keys import WRAPPED, plain_path
from loralab.formats.peft.layout import EMBEDDING_A, IN_PROJECTION, OUTPUT_TWICE, A
from loralab.formats.record import ModuleRecord, PartRecord, Runs, rows_of
from loralab.formats.sidecar import Sidecar
from loralab.methods.vera import A_NAME, B_NAME, LAMBDA_B, LAMBDA_D, ScaledProjections

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


# -- deltas of other kinds than a plain pair -----------------------------------------------------------------------


def local_keys(path: str, part: str, record: PartRecord, shared: SharedMatrices | None) -> dict[str, str]:
    """A delta's own tensors by their names in it → their keys in the file."""
    stem = path if part == WHOLE else f"{path}.{part}"
    if not record.kind:
        return {name: f"{stem}.{name}" for name in ("lora_A", "lora_B")}
    O, I = _shape(stem, record)  # noqa: E741
    blank = record.blank(Spot(stem, record.recipe, O, I, torch.device("meta"), shared=shared))
    return {name: f"{stem}.{name}" for name, _ in blank.stored()}


def shared_matrices(tensors: Mapping[str, Tensor], trains: Mapping[str, bool]) -> SharedMatrices | None:
    """Copies of those of a file, at least float32, by the names that loralab.json gives; AdapterFileError for one that
    is missing."""
    lost = [f"{SHARED}.{name}" for name in trains if f"{SHARED}.{name}" not in tensors]
    if lost:
        raise AdapterFileError(f"the adapter's file lacks the matrices that its modules share: {', '.join(lost)}")
    stored = {name: tensors[f"{SHARED}.{name}"] for name in trains}
    wide = {name: each.to(torch.promote_types(each.dtype, torch.float32), copy=True) for name, each in stored.items()}
    return SharedMatrices(wide, trains) if wide else None


def special_updates(
    path: str, record: ModuleRecord, tensors: Mapping[str, Tensor], shared: SharedMatrices | None
) -> Iterator[StoredUpdate]:
    """The pairs that a module's deltas of other kinds come to; AdapterFileError for what is missing."""
    for part, each in record.parts.items():
        if not each.kind:
            continue
        stem = path if part == WHOLE else f"{path}.{part}"
        O, I = _shape(stem, each)  # noqa: E741
        delta = each.blank(Spot(stem, each.recipe, O, I, torch.device("cpu"), shared=shared))
        expected = {f"{stem}.{name}": tuple(tensor.shape) for name, tensor in delta.stored()}
        problems = problems_of({key: tensors[key] for key in expected if key in tensors}, expected)
        if problems:
            raise AdapterFileError(f"the adapter's file does not hold what it should: {listed(problems)}; get it again")
        with torch.no_grad():
            for name, tensor in delta.stored():
                tensor.copy_(tensors[f"{stem}.{name}"])
        plain = delta.eval().as_lora()
        keys = f"{stem}.A", f"{stem}.B"
        A, B = plain.lora_A.detach(), plain.lora_B.detach()
        yield StoredUpdate(stem, record.kind, keys, A, B, plain.recipe, each.rows)


# -- VeRA in PEFT's names ---------------------------------------------------------------------------------------


def vera_updates(
    recipe: Recipe, tensors: Mapping[str, Tensor], sidecar: Sidecar | None
) -> tuple[list[StoredUpdate], dict[str, Tensor]]:
    """The pairs that a VeRA adapter in PEFT's layout comes to, and the tensors that are none of theirs.

    Without loralab.json every layer is taken to be as wide as the widest. Raises AdapterFileError where the file lacks
    the projections, which only the model's shapes could bring back.
    """
    named = {_own_name(key): tensor for key, tensor in tensors.items()}
    if not all(f"{SHARED}.{name}" in named for name in (A_NAME, B_NAME)):
        raise AdapterFileError(
            "this VeRA adapter was saved without its projections (save_projection): load it into its model with "
            "ll.load and save it again"
        )
    shared = shared_matrices(named, {A_NAME: False, B_NAME: False})
    records = _vera_records(recipe, named) if sidecar is None else sidecar.modules
    pairs = [pair for path, record in records.items() for pair in special_updates(path, record, named, shared)]
    own = {f"{pair.name}.{name}" for pair in pairs for name in (LAMBDA_B, LAMBDA_D)}
    own |= {f"{SHARED}.{name}" for name in (A_NAME, B_NAME)}
    return pairs, {key: tensor for key, tensor in named.items() if key not in own}


def _own_name(key: str) -> str:
    """PEFT's key as our own layout would have it."""
    local = key.removeprefix("base_model.model.").removeprefix("base_model.")
    return f"{SHARED}.{local}" if local in (A_NAME, B_NAME) else local


def _vera_records(recipe: Recipe, named: Mapping[str, Tensor]) -> dict[str, ModuleRecord]:
    width = named[f"{SHARED}.{A_NAME}"].shape[1]
    paths = [key.removesuffix(f".{LAMBDA_B}") for key in named if key.endswith(f".{LAMBDA_B}")]
    shapes = {path: (len(named[f"{path}.{LAMBDA_B}"]), width) for path in paths}
    return {
        path: ModuleRecord("linear", {WHOLE: PartRecord(recipe, kind=ScaledProjections.kind, shape=shape)})
        for path, shape in shapes.items()
    }


def _shape(stem: str, record: PartRecord) -> tuple[int, int]:
    if record.shape is None:
        raise AdapterFileError(f"loralab.json does not say what shape the weight of {stem} has; save the adapter again")
    return record.shape


# -- what a pair holds ----------------------------------------------------------------------------------------------

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Piece:
    """One update within the two tensors of a pair."""

    name: str
    """The module's path, `path[part]` for a part of it."""
    path: str
    part: str
    pair: StoredUpdate
    ranks: slice | None = None
    """Its rows of A and columns of B; None: all of them."""
    outputs: Tensor | None = None
    """Its rows of B; None: all of them."""
    own_recipe: Recipe | None = None
    """What the sidecar says of the part; None: it is the pair's."""

    @cached_property
    def matrices(self) -> Pair:
        """(A [G, R, I], B [G, O, R]) as stored, without the scale; two dimensions where there are no groups."""
        if self.ranks is None:
            return (self.pair.A, self.pair.B) if self.pair.kind == "parameters" else self.pair.matrices()
        B_OR = self.pair.B[:, self.ranks]
        return self.pair.A[self.ranks], B_OR if self.outputs is None else B_OR[self.outputs]

    @property
    def recipe(self) -> Recipe:
        """Rank, alpha and the rest as the adapter's files say them of this piece."""
        return self.pair.recipe if self.own_recipe is None else self.own_recipe

    @property
    def rank(self) -> int:
        """R."""
        return int(self.matrices[0].shape[-2])

    @cached_property
    def thin(self) -> Thin:
        """B·A, without the scale."""
        return Thin.of(*self.matrices)

    @property
    def energy_K(self) -> Tensor:
        """σ² of ΔW, the scale included."""
        return self.thin.energy_K * self.pair.scale**2

    def cut(self, rank: int) -> Pair:
        """The best (A, B) of this rank, or of R if that is less, in the precision to be stored."""
        dtype = torch.promote_types(self.pair.A.dtype, torch.float32)
        A, B = (tensor.to(dtype) for tensor in self.thin.cut(min(rank, self.rank)))
        missing = min(rank, self.rank) - A.shape[-2]  # of factors with more rank than their matrix can have
        if missing <= 0:
            return A, B
        return torch.nn.functional.pad(A, (0, 0, 0, missing)), torch.nn.functional.pad(B, (0, missing))


def pieces_of(pair: StoredUpdate, sidecar: Sidecar | None, own_layout: bool) -> list[Piece]:
    """The pieces in a pair; without a sidecar a pair is one piece."""
    output, path = pair.of_output, pair.module
    record = None if sidecar is None else sidecar.modules.get(path)
    if output and record is not None:
        return list(_output_piece(path, pair, record))
    if own_layout or record is None or WHOLE in record.parts or record.kind not in ("linear", "attention"):
        path, part = _place(pair.name, sidecar)
        return [Piece(path if part == WHOLE else f"{path}[{part}]", path, part, pair)]
    return list(_packed_pieces(path, pair, record))


def _place(name: str, sidecar: Sidecar | None) -> tuple[str, str]:
    """(module path, part) of a pair that holds one piece: `path`, or `path.part`."""
    if sidecar is not None and name not in sidecar.modules:
        path, _, part = name.rpartition(".")
        if path in sidecar.modules:
            return path, part
    return name, WHOLE


def _packed_pieces(path: str, pair: StoredUpdate, record: ModuleRecord) -> Iterator[Piece]:
    start = 0
    for part, each in record.parts.items():
        if record.kind == "attention" and part not in IN_PROJECTION:
            continue
        ranks = slice(start, start := start + each.recipe.rank)
        outputs = rows_of(each.rows) if each.rows is not None else _third(part, len(pair.B))
        yield Piece(f"{path}[{part}]", path, part, pair, ranks, outputs, each.recipe)


def _output_piece(path: str, pair: StoredUpdate, record: ModuleRecord) -> Iterator[Piece]:
    """Nothing where the output is not adapted: the pair is then zeros in its place."""
    if "out" in record.parts:
        recipe = record.parts["out"].recipe
        yield Piece(f"{path}[out]", path, "out", pair, slice(0, recipe.rank), own_recipe=recipe)


def _third(part: str, outputs: int) -> Tensor:
    return torch.arange(outputs).chunk(3)[IN_PROJECTION.index(part)]
