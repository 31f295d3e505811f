"""The updates of an adapter in its files one by one, as they can be cut short, and the way back into the files.

A piece is one module's update, or one part's of a fused projection, whose tensors PEFT's layout packs together (see
`peft_layout.py`). No model is needed. Shapes: G groups or experts, R rank, I inputs, O outputs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from loralab.core.thin import Balanced, balance
from loralab.core.updates.factors import Recipe
from loralab.core.updates.update import WHOLE
from loralab.formats.peft.layout import IN_PROJECTION
from loralab.formats.record import ModuleRecord, rows_of
from loralab.formats.sidecar import Sidecar
from loralab.formats.updates import FilePair

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Piece:
    """One update within the two tensors of a pair."""

    name: str
    """The module's path, `path[part]` for a part of it."""
    path: str
    part: str
    pair: FilePair
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
    def balanced(self) -> Balanced:
        """Its singular directions; energies without the scale."""
        return balance(*self.matrices)

    @property
    def energy_K(self) -> Tensor:
        """σ² of ΔW, the scale included."""
        return self.balanced.energy_K * self.pair.scale**2

    def cut(self, rank: int) -> Pair:
        """The best (A, B) of this rank, or of R if that is less, in the precision to be stored."""
        dtype = torch.promote_types(self.pair.A.dtype, torch.float32)
        A, B = (tensor.to(dtype) for tensor in self.balanced.cut(min(rank, self.rank)))
        missing = min(rank, self.rank) - A.shape[-2]  # of factors with more rank than their matrix can have
        if missing <= 0:
            return A, B
        return torch.nn.functional.pad(A, (0, 0, 0, missing)), torch.nn.functional.pad(B, (0, missing))


def pieces_of(pair: FilePair, sidecar: Sidecar | None, own_layout: bool) -> list[Piece]:
    """The pieces in a pair; without a sidecar a pair is one piece."""
    output = pair.kind == "attention output"
    path = pair.name.removesuffix(".out_proj") if output else pair.name
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


def _packed_pieces(path: str, pair: FilePair, record: ModuleRecord) -> Iterator[Piece]:
    start = 0
    for part, each in record.parts.items():
        if record.kind == "attention" and part not in IN_PROJECTION:
            continue
        ranks = slice(start, start := start + each.recipe.rank)
        outputs = rows_of(each.rows) if each.rows is not None else _third(part, len(pair.B))
        yield Piece(f"{path}[{part}]", path, part, pair, ranks, outputs, each.recipe)


def _output_piece(path: str, pair: FilePair, record: ModuleRecord) -> Iterator[Piece]:
    """None where the output is not adapted: the pair is then zeros that stand for it."""
    if "out" in record.parts:
        recipe = record.parts["out"].recipe
        yield Piece(f"{path}[out]", path, "out", pair, slice(0, recipe.rank), own_recipe=recipe)


def _third(part: str, outputs: int) -> Tensor:
    return torch.arange(outputs).chunk(3)[IN_PROJECTION.index(part)]


def entry_of(pair: FilePair) -> str:
    """What rank_pattern calls the module or raw parameter that a pair belongs to."""
    return pair.name.removesuffix(".out_proj") if pair.kind == "attention output" else pair.name


def stored_rank(pair: FilePair, cuts: Sequence[Pair]) -> int:
    """The rank by which PEFT knows a pair that is to hold these pieces: a convolution's counts all its groups."""
    within = sum(A.shape[-2] for A, _ in cuts)
    return within * (len(cuts[0][0]) if pair.A.dim() > 2 and pair.kind == "conv" else 1)


def stored(pair: FilePair, pieces: Sequence[Piece], cuts: Sequence[Pair], rank: int) -> Pair:
    """The pair's tensors with its pieces cut, those that are packed padded with zeros to `rank`."""
    if not pieces or pieces[0].ranks is not None or pair.kind == "attention output" or rank > stored_rank(pair, cuts):
        return _packed(pair, pieces, cuts, rank)
    A, B = cuts[0]
    if pair.kind == "parameters":
        return A, B
    if pair.kind == "experts":
        return A.flatten(0, 1), B.permute(1, 2, 0).flatten(1)
    A_stored = A.flatten(0, 1).view(-1, *pair.A.shape[1:])
    return A_stored, B.flatten(0, 1).view(len(pair.B), -1, *pair.B.shape[2:])


def _packed(pair: FilePair, pieces: Sequence[Piece], cuts: Sequence[Pair], rank: int) -> Pair:
    dtype = torch.promote_types(pair.A.dtype, torch.float32)
    A_RI = torch.zeros(rank, pair.A.shape[1], dtype=dtype)
    B_OR = torch.zeros(len(pair.B), rank, dtype=dtype)
    start = 0
    for piece, (A, B) in zip(pieces, cuts, strict=True):
        ranks = slice(start, start := start + A.shape[-2])
        A_RI[ranks] = A.reshape(-1, A.shape[-1])
        B_OR[slice(None) if piece.outputs is None else piece.outputs, ranks] = B.reshape(-1, B.shape[-1])
    return A_RI, B_OR


def resized_record(record: ModuleRecord, ranks: Mapping[str, int]) -> ModuleRecord:
    """The record with other ranks by part, every scale as it was."""
    parts = {}
    for part, each in record.parts.items():
        parts[part] = replace(each, recipe=each.recipe.at_rank(ranks.get(part, each.recipe.rank)))
    return replace(record, parts=parts)
