"""An adapter folder in a lower rank: every update cut to its strongest singular directions. No model is needed.

Scales α/r stay as they were (so that a server that reads one rank and one alpha for all modules still computes the
same), and A and B are balanced, √σ each. A rank is only ever lowered: rows and columns of zeros in both factors, which
alone could raise it exactly, would get no gradient for ever. An update that has less than the rank asked for stays.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loralab.core.thin import Pair, Thin, rank_for_energy
from loralab.core.updates.factors import Recipe, usual_and_others
from loralab.core.updates.update import WHOLE
from loralab.errors import SpecError
from loralab.files.names import RUN_NAME
from loralab.files.whole import json_text, read_json, whole_folder
from loralab.formats.peft.keys import PREFIX
from loralab.formats.peft.layout import IN_PROJECTION, stacked
from loralab.formats.read import read_plain
from loralab.formats.record import rows_of
from loralab.formats.save import write_folder
from loralab.formats.stored import StoredAdapter, StoredUpdate


@dataclass(frozen=True)
class ResizedPiece:
    """What became of one update."""

    module: str
    rank_before: int
    rank: int
    error: float
    """‖ΔW − ΔW'‖_F / ‖ΔW‖_F, of what was written; 0 for an update that is zero."""
    norm: float
    """‖ΔW‖_F, before."""


@dataclass(frozen=True)
class Resized:
    """What was written."""

    out: str
    pieces: tuple[ResizedPiece, ...]
    parameters_before: int
    """In A and B of all modules."""
    parameters: int

    @property
    def error(self) -> float:
        """The relative error of all updates together: √Σ‖ΔW − ΔW'‖² / √Σ‖ΔW‖²."""
        whole = math.hypot(*(piece.norm for piece in self.pieces))
        return math.hypot(*(piece.error * piece.norm for piece in self.pieces)) / whole if whole else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "out": self.out,
            "error": self.error,
            "parameters_before": self.parameters_before,
            "parameters": self.parameters,
            "modules": [asdict(piece) for piece in self.pieces],
        }


# -- what a pair holds ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Piece:
    """One update within the two tensors of a pair: PEFT's layout packs the parts of a fused projection into one."""

    path: str
    part: str
    update: StoredUpdate
    """The pair, or what this part has of it."""
    recipe: Recipe
    """Rank, alpha and the rest as the adapter's files say them of this piece."""
    ranks: slice | None = None
    """Its rows of the pair's A and columns of its B; None: all of them."""
    outputs: Tensor | None = None
    """Its rows of the pair's B; None: all of them."""

    @property
    def name(self) -> str:
        """The module's path, `path[part]` for a part of it."""
        return self.path if self.part == WHOLE else f"{self.path}[{self.part}]"

    @cached_property
    def thin(self) -> Thin:
        """B·A, without the scale: A [G, R, I], B [G, O, R]."""
        return Thin(*self.update.matrices())

    @property
    def rank(self) -> int:
        """R."""
        return int(self.thin.A_RI.shape[-2])

    @property
    def energy_K(self) -> Tensor:
        """σ² of ΔW, the scale included."""
        return self.thin.energy_K * self.update.scale**2

    def cut(self, rank: int) -> Pair:
        """The best (A, B) of this rank, or of R if that is less, in the precision to be stored."""
        dtype = torch.promote_types(self.update.A.dtype, torch.float32)
        A, B = (tensor.to(dtype) for tensor in self.thin.cut(min(rank, self.rank)))
        missing = min(rank, self.rank) - A.shape[-2]  # of factors with more rank than their matrix can have
        return torch.nn.functional.pad(A, (0, 0, 0, missing)), torch.nn.functional.pad(B, (0, missing))


def pieces_by_pair(adapter: StoredAdapter) -> list[tuple[StoredUpdate, list[Piece]]]:
    """Every A and B of the file, with the modules' own updates in them."""
    return [(pair, list(_pieces_of(pair, adapter))) for pair in adapter.entries]


def pieces(adapter: StoredAdapter) -> list[Piece]:
    """The modules' own updates, in the order of the file."""
    return [piece for _, within in pieces_by_pair(adapter) for piece in within]


def _pieces_of(pair: StoredUpdate, adapter: StoredAdapter) -> Iterator[Piece]:
    """Without loralab.json a pair is one piece; of an attention's output that is not adapted it is none."""
    modules = {} if adapter.sidecar is None else adapter.sidecar.modules
    record = modules.get(pair.module)
    if adapter.is_own or record is None or WHOLE in record.parts or record.kind not in ("linear", "attention"):
        path, _, part = pair.name.rpartition(".")
        inside = pair.name not in modules and path in modules
        yield Piece(*(path, part) if inside else (pair.name, WHOLE), pair, pair.recipe)
        return
    start = 0
    for part, each in record.parts.items():
        if record.kind == "attention" and (part in IN_PROJECTION) == pair.of_output:
            continue
        ranks = slice(start, start := start + each.recipe.rank)
        outputs = None if pair.of_output else _third(part, len(pair.B)) if each.rows is None else rows_of(each.rows)
        B_OR = pair.B[:, ranks] if outputs is None else pair.B[:, ranks][outputs]
        yield Piece(pair.module, part, replace(pair, A=pair.A[ranks], B=B_OR), each.recipe, ranks, outputs)


def _third(part: str, outputs: int) -> Tensor:
    return torch.arange(outputs).chunk(3)[IN_PROJECTION.index(part)]


# -- resizing -------------------------------------------------------------------------------------------------------


def read_resizable(path: str | Path) -> StoredAdapter:
    """Read an adapter folder, ours or PEFT's; of a method that PEFT lacks the plain LoRA beside it, if there is one.

    Raises what `StoredAdapter.demand` raises, and SpecError where there is nothing to resize or the adapter is a
    loralib checkpoint.
    """
    source = Path(path)
    if source.is_file():
        raise SpecError(
            f"{source} is a checkpoint, and a resized adapter is a folder; convert it first: "
            f"loralab convert {source} FOLDER --to peft --alpha A"
        )
    adapter = read_plain(source).demand()
    if adapter.vera is not None:
        raise SpecError(
            f"{adapter.source} is VeRA: its A and B are frozen and shared by all layers, and have no rank to cut"
        )
    if not adapter.updates:
        raise SpecError(f"{adapter.source} is of method {adapter.method}, which has no low-rank factors to resize")
    _refuse_bare_parameters(adapter)
    adapter.refuse_without_base("one of another rank")
    return adapter


def _refuse_bare_parameters(adapter: StoredAdapter) -> None:
    targets = () if adapter.config is None else adapter.config.target_parameters
    bare = [name for name in targets if "." not in name]
    if bare and adapter.sidecar is None:
        raise SpecError(
            f"{adapter.source} adapts raw parameters by their bare names ({', '.join(bare)}): which module's they are "
            "only the model says. Load it into its model with ll.load, ll.save it, and resize what was saved"
        )


def uniform_ranks(adapter: StoredAdapter, rank: int) -> dict[str, int]:
    """This rank for every piece that has as much. Raises SpecError for a rank below 1 or above what any piece has."""
    whole = pieces(adapter)
    most = max(piece.rank for piece in whole)
    if not 1 <= rank <= most:
        raise SpecError(
            f"rank {rank} is not possible for {adapter.source}, whose updates have up to {most}: choose 1 to {most} "
            "(a rank cannot be raised here, since rows of zeros would never learn)"
        )
    return {piece.name: min(rank, piece.rank) for piece in whole}


def energy_ranks(adapter: StoredAdapter, energy: float) -> dict[str, int]:
    """For every piece the smallest rank that keeps this share of ‖ΔW‖²_F; SpecError for a share not in (0, 1]."""
    if not 0 < energy <= 1:
        raise SpecError(f"energy is {energy:g}, but the share of ‖ΔW‖²_F to keep must be in (0, 1]")
    return {piece.name: rank_for_energy(piece.energy_K, energy) for piece in pieces(adapter)}


def write_resized(adapter: StoredAdapter, ranks: Mapping[str, int], out: str | Path, why: str) -> Resized:
    """Write the adapter with these ranks (by piece) into the new folder `out`, and measure what it lost.

    A run.json beside the adapter comes along, with `why` in it. Raises OutputError if there is something at `out`.
    """
    folder, tensors, entries = Path(out), dict[str, Tensor](), dict[str, int]()
    by_pair = pieces_by_pair(adapter)
    every = [piece for _, within in by_pair for piece in within]
    cuts = {piece.name: piece.cut(ranks[piece.name]) for piece in every}
    for pair, within in by_pair:
        rank = stored_rank(pair, [cuts[piece.name] for piece in within]) if within else 0
        entries[pair.module] = max(rank, entries.get(pair.module, 0))
    for pair, within in by_pair:
        factors = stored(pair, within, [cuts[piece.name] for piece in within], entries[pair.module])
        tensors |= dict(zip(pair.keys, factors, strict=True))
    prefix = "" if adapter.is_own else PREFIX
    written = {prefix + key: tensor for key, tensor in (tensors | dict(adapter.others)).items()}
    by_part = {(piece.path, piece.part): cuts[piece.name][0].shape[-2] for piece in every}
    sidecar = None if adapter.sidecar is None else adapter.sidecar.at_ranks(by_part, why)
    content = dict(adapter.content) if adapter.is_own else _resized_config(adapter, entries)
    with whole_folder(folder) as temporary:
        write_folder(temporary, content, written, sidecar)
        if (adapter.source / RUN_NAME).is_file():
            run = read_json(adapter.source / RUN_NAME) | {"resized": why}
            (temporary / RUN_NAME).write_text(json_text(run), encoding="utf-8")
    before = sum(piece.update.A.numel() + piece.update.B.numel() for piece in every)
    after = sum(A.numel() + B.numel() for A, B in cuts.values())
    compared = tuple(_compared(piece, cuts[piece.name]) for piece in every)
    return Resized(str(folder), compared, before, after)


def _compared(piece: Piece, cut: tuple[Tensor, Tensor]) -> ResizedPiece:
    whole = piece.thin.norm()
    error = piece.thin.distance(Thin.of(*cut)) / whole if whole else 0.0
    return ResizedPiece(piece.name, piece.rank, cut[0].shape[-2], error, whole * abs(piece.update.scale))


# -- what describes the tensors -----------------------------------------------------------------------------------


def _resized_config(adapter: StoredAdapter, ranks: Mapping[str, int]) -> dict[str, Any]:
    """PEFT's configuration as it was, but for ranks and alphas."""
    config = adapter.config
    assert config is not None
    recipes = {"^" + re.escape(name): config.recipe(name).at_rank(rank) for name, rank in ranks.items()}
    usual, others, alphas = usual_and_others(recipes)
    resized = replace(config, rank=usual.rank, alpha=usual.alpha, rank_pattern=others, alpha_pattern=alphas).to_json()
    names = ("r", "lora_alpha", "rank_pattern", "alpha_pattern")
    return dict(adapter.content) | {name: resized[name] for name in names}


def stored_rank(pair: StoredUpdate, cuts: Sequence[Pair]) -> int:
    """The rank by which PEFT knows a pair that is to hold these pieces: a convolution's counts all its groups."""
    within = sum(A.shape[-2] for A, _ in cuts)
    return within * (len(cuts[0][0]) if pair.A.dim() > 2 and pair.kind == "conv" else 1)


def stored(pair: StoredUpdate, pieces: Sequence[Piece], cuts: Sequence[Pair], rank: int) -> Pair:
    """The pair's tensors with its pieces cut, those that are packed padded with zeros to `rank`."""
    if not pieces or pieces[0].ranks is not None or pair.of_output or rank > stored_rank(pair, cuts):
        return _packed(pair, pieces, cuts, rank)
    A, B = cuts[0]
    if pair.kind == "parameters":
        return A.view(*pair.A.shape[:-2], *A.shape[-2:]), B.view(*pair.B.shape[:-2], *B.shape[-2:])
    if pair.kind == "experts":
        return A.flatten(0, 1), B.permute(1, 2, 0).flatten(1)
    A_stored = A.flatten(0, 1).view(-1, *pair.A.shape[1:])
    return A_stored, B.flatten(0, 1).view(len(pair.B), -1, *pair.B.shape[2:])


def _packed(pair: StoredUpdate, pieces: Sequence[Piece], cuts: Sequence[Pair], rank: int) -> Pair:
    dtype = torch.promote_types(pair.A.dtype, torch.float32)
    zeros = torch.zeros(rank, pair.A.shape[1], dtype=dtype), torch.zeros(len(pair.B), rank, dtype=dtype)
    placed = [
        (A.flatten(0, -2), B.flatten(0, -2), slice(None) if piece.outputs is None else piece.outputs)
        for piece, (A, B) in zip(pieces, cuts, strict=True)
    ]
    return stacked(*zeros, placed)
