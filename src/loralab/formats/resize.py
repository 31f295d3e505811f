"""An adapter folder in a lower rank: every update cut to its strongest singular directions. No model is needed.

Scales α/r stay as they were (so that a server that reads one rank and one alpha for all modules still computes the
same), and A and B are balanced, √σ each. A rank is only ever lowered: rows and columns of zeros in both factors, which
alone could raise it exactly, would get no gradient for ever. An update that has less than the rank asked for stays.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from loralab.core.thin import distance, norm, rank_for_energy
from loralab.core.updates.factors import usual_and_others
from loralab.errors import AdapterFileError, SpecError
from loralab.files.tensor_writing import write_tensors
from loralab.files.tensors import read_tensors
from loralab.files.whole import json_text, whole_folder
from loralab.formats.folder import TENSORS_NAME, config_content, plain_folder, tensors_path
from loralab.formats.peft.beside_base import refuse_without_base
from loralab.formats.peft.config import CONFIG_NAME, OWN_TYPE, PeftConfig, parse_config, read_json
from loralab.formats.peft.dialects import as_plain_lora
from loralab.formats.peft.reading import plain_names
from loralab.formats.peft.vera_config import is_vera
from loralab.formats.peft.writing import PREFIX
from loralab.formats.rank_pieces import Piece, entry_of, pieces_of, resized_record, stored, stored_rank
from loralab.formats.sidecar import SIDECAR_NAME, Sidecar, file_sha256
from loralab.formats.stored import AdapterPairs, read_pairs
from loralab.formats.updates import FilePair, file_pairs

RUN_NAME = "run.json"


@dataclass(frozen=True)
class Resizable:
    """An adapter's files, taken apart into pieces."""

    source: Path
    config: Mapping[str, Any]
    """adapter_config.json as it is."""
    pairs: Sequence[tuple[FilePair, Sequence[Piece]]]
    """Every A and B of the file, with the updates in them."""
    others: Mapping[str, Tensor]
    sidecar: Sidecar | None

    @property
    def own_layout(self) -> bool:
        """Whether PEFT cannot load it."""
        return self.config.get("peft_type") == OWN_TYPE

    @property
    def rank_stabilized(self) -> bool:
        """Whether the scales are α/√r."""
        return all(piece.recipe.rank_stabilized for piece in self.pieces)

    @property
    def pieces(self) -> list[Piece]:
        """All updates, in the order of the file."""
        return [piece for _, pieces in self.pairs for piece in pieces]


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
        """The same of all updates together: √Σ‖ΔW − ΔW'‖² / √Σ‖ΔW‖²."""
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


def read_resizable(path: str | Path) -> Resizable:
    """Take an adapter folder, ours or PEFT's, apart. Raises what `read_pairs` raises, and SpecError where there is
    nothing to resize or the adapter is a loralib checkpoint.
    """
    source = Path(path)
    if source.is_file():
        raise SpecError(
            f"{source} is a checkpoint, and a resized adapter is a folder; convert it first: "
            f"loralab convert {source} FOLDER --to peft --alpha A"
        )
    source = plain_folder(source)
    found, content = read_pairs(source), config_content(source)
    if is_vera(content):
        raise SpecError(f"{source} is VeRA: its A and B are frozen and shared by all layers, and have no rank to cut")
    if not found.pairs:
        raise SpecError(f"{source} is of method {found.method}, which has no low-rank factors to resize")
    own = content.get("peft_type") == OWN_TYPE
    pairs, others = list(found.pairs), dict(found.others)
    if not own:  # with the zeros that stand for what is not adapted, which have to be as wide as the rest
        plain = as_plain_lora(content, read_tensors(tensors_path(source)).tensors)
        content, config = plain.content, parse_config(plain.content, str(source / CONFIG_NAME))
        _refuse_bare_parameters(config, found)
        refuse_without_base(source, config, "one of another rank")
        pairs, others = file_pairs(config, plain_names(plain.tensors)[0], found.sidecar)
    by_pair = [(pair, pieces_of(pair, found.sidecar, own)) for pair in pairs]
    return Resizable(source, content, by_pair, others, found.sidecar)


def _refuse_bare_parameters(config: PeftConfig, found: AdapterPairs) -> None:
    bare = [name for name in config.target_parameters if "." not in name]
    if bare and found.sidecar is None:
        raise SpecError(
            f"{found.source} adapts raw parameters by their bare names ({', '.join(bare)}): which module's they are "
            "only the model says. Load it into its model with ll.load, ll.save it, and resize what was saved"
        )


def uniform_ranks(adapter: Resizable, rank: int) -> dict[str, int]:
    """This rank for every piece that has as much. Raises SpecError for a rank below 1 or above what any piece has."""
    most = max(piece.rank for piece in adapter.pieces)
    if not 1 <= rank <= most:
        raise SpecError(
            f"rank {rank} was asked for, and the updates of {adapter.source} have up to {most}; choose 1 to {most}: "
            "a rank cannot be raised here, since rows of zeros would never learn"
        )
    return {piece.name: min(rank, piece.rank) for piece in adapter.pieces}


def energy_ranks(adapter: Resizable, energy: float) -> dict[str, int]:
    """For every piece the smallest rank that keeps this share of ‖ΔW‖²_F; SpecError for a share not in (0, 1]."""
    if not 0 < energy <= 1:
        raise SpecError(f"energy {energy:g} was asked for; it is the share of ‖ΔW‖²_F to keep, above 0 and at most 1")
    return {piece.name: rank_for_energy(piece.energy_K, energy) for piece in adapter.pieces}


def write_resized(adapter: Resizable, ranks: Mapping[str, int], out: str | Path, why: str) -> Resized:
    """Write the adapter with these ranks (by piece) into the new folder `out`, and measure what it lost.

    A run.json beside the adapter comes along, with `why` in it. Raises OutputError if there is something at `out`.
    """
    folder, tensors, entries = Path(out), dict[str, Tensor](), dict[str, int]()
    cuts = {piece.name: piece.cut(ranks[piece.name]) for piece in adapter.pieces}
    for pair, pieces in adapter.pairs:
        rank = stored_rank(pair, [cuts[piece.name] for piece in pieces]) if pieces else 0
        entries[entry_of(pair)] = max(rank, entries.get(entry_of(pair), 0))
    for pair, pieces in adapter.pairs:
        factors = stored(pair, pieces, [cuts[piece.name] for piece in pieces], entries[entry_of(pair)])
        tensors |= dict(zip(pair.keys, factors, strict=True))
    prefix = "" if adapter.own_layout else PREFIX
    written = {prefix + key: tensor for key, tensor in (tensors | dict(adapter.others)).items()}
    sidecar = None if adapter.sidecar is None else _resized_sidecar(adapter.sidecar, adapter.pieces, cuts, why)
    content = dict(adapter.config) if adapter.own_layout else _resized_config(adapter, entries)
    with whole_folder(folder) as temporary:
        write_tensors(temporary / TENSORS_NAME, written)
        if sidecar is not None:
            described = sidecar.to_json() | {"tensors_sha256": file_sha256(temporary / TENSORS_NAME)}
            (temporary / SIDECAR_NAME).write_text(json_text(described), encoding="utf-8")
        (temporary / CONFIG_NAME).write_text(json_text(content, sort_keys=True), encoding="utf-8")
        if (adapter.source / RUN_NAME).is_file():
            run = read_json(adapter.source / RUN_NAME) | {"resized": why}
            (temporary / RUN_NAME).write_text(json_text(run), encoding="utf-8")
    before, after = (_count(each) for each in ([p.matrices for p in adapter.pieces], list(cuts.values())))
    compared = tuple(_compared(piece, cuts[piece.name]) for piece in adapter.pieces)
    return Resized(str(folder), compared, before, after)


def _compared(piece: Piece, cut: tuple[Tensor, Tensor]) -> ResizedPiece:
    whole = norm(*piece.matrices)
    error = distance(piece.matrices, cut) / whole if whole else 0.0
    return ResizedPiece(piece.name, piece.rank, cut[0].shape[-2], error, whole * abs(piece.pair.scale))


def _count(pairs: Sequence[tuple[Tensor, Tensor]]) -> int:
    return sum(A.numel() + B.numel() for A, B in pairs)


# -- what describes the tensors -----------------------------------------------------------------------------------


def _resized_config(adapter: Resizable, ranks: Mapping[str, int]) -> dict[str, Any]:
    """PEFT's configuration as it was, but for ranks and alphas."""
    config = parse_config(adapter.config, str(adapter.source / CONFIG_NAME))
    recipes = {"^" + re.escape(name): config.recipe(name).at_rank(rank) for name, rank in ranks.items()}
    usual, others, alphas = usual_and_others(recipes)
    resized = replace(config, rank=usual.rank, alpha=usual.alpha, rank_pattern=others, alpha_pattern=alphas).to_json()
    names = ("r", "lora_alpha", "rank_pattern", "alpha_pattern")
    return dict(adapter.config) | {name: resized[name] for name in names}


def _resized_sidecar(
    sidecar: Sidecar, pieces: Sequence[Piece], cuts: Mapping[str, tuple[Tensor, Tensor]], why: str
) -> Sidecar:
    by_path: dict[str, dict[str, int]] = {}
    for piece in pieces:
        by_path.setdefault(piece.path, {})[piece.part] = cuts[piece.name][0].shape[-2]
    lost = [path for path in by_path if path not in sidecar.modules]
    if lost:
        raise AdapterFileError(f"{SIDECAR_NAME} says nothing of {', '.join(lost)}, which the tensor file holds")
    modules = {path: resized_record(record, by_path.get(path, {})) for path, record in sidecar.modules.items()}
    usual, others, alphas = usual_and_others(
        {piece.name: modules[piece.path].parts[piece.part].recipe for piece in pieces}
    )
    fields = {"rank": usual.rank, "alpha": usual.alpha, "rank_pattern": others, "alpha_pattern": alphas}
    method = _resized_method(sidecar.method, fields)
    return replace(sidecar, modules=modules, method=method, notes=[*sidecar.notes, why])


def _resized_method(method: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The specification with the new ranks, wherever it is LoRA's."""
    if method.get("type") == "JointMethod":
        return dict(method) | {"specs": [_resized_method(each, fields) for each in method["specs"]]}
    return dict(method) | (dict(fields) if method.get("type") == "LoRA" else {})
