"""Tied-LoRA (arXiv 2311.09578): one A and one B for all layers, and two vectors in each that scale them.

    ΔW_l = s · diag(v_l)·B·diag(u_l)·A        A [R, I], B [O, R] for all layers;  u_l [R], v_l [O]

Any of the four may train (`train`); what does not is random (A, B) or all ones (u, v). With all four it is the paper's
TL6, with A and B alone its TL5; which parts its TL1 to TL4 train is not confirmed, and they have no names here. The
paper takes alpha = r, so s = 1. Where B trains it starts at zero; where it is frozen it is random and v starts at zero.

The paper adapts the fused projection of queries, keys and values, W [3d, d]. Where they are three layers, they share A
and u of their block, as they share their input, and have a B each: the same numbers. Other layers are tied by name and
shape. Since A and B get the gradients of all layers, they want a lower learning rate than LoRA's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.updates.build import Maker
from loralab.core.updates.factors import LowRankDelta, Pair, Recipe, SharedMatrices, Spot
from loralab.errors import AdapterFileError, TargetError
from loralab.methods.low_rank_method import LowRankMethod
from loralab.methods.specification import count_problems, dropout_problems, number_problems
from loralab.models.families.aliases import expand_alias

PARTS = ("A", "B", "u", "v")
INPUTS_OF_ATTENTION = "qkv"


class TiedPair(LowRankDelta):
    """ΔW = s·diag(v)·B·diag(u)·A: A, B and u by their names among the shared matrices, v its own."""

    kind = "tied"

    def __init__(
        self,
        recipe: Recipe,
        out_features: int,
        device: torch.device,
        shared: SharedMatrices,
        a: str,
        b: str,
        u: str | None,
        v: bool,
    ) -> None:
        super().__init__(recipe)
        self.shared = shared
        self.a, self.b, self.u = a, b, u
        self.tied_v = nn.Parameter(torch.empty(out_features, device=device)) if v else None

    @classmethod
    def blank(cls, spot: Spot) -> LowRankDelta:
        if spot.shared is None or not spot.settings:
            raise AdapterFileError("a Tied-LoRA adapter without its shared matrices cannot be made")
        made = cls(spot.recipe, spot.out_features, spot.device, spot.shared, **spot.settings)
        A, B = spot.shared.matrix(made.a), spot.shared.matrix(made.b)
        rank, O, I = spot.recipe.rank, spot.out_features, spot.in_features  # noqa: E741
        if A.shape != (rank, I) or B.shape != (O, rank):
            raise AdapterFileError(
                f"a layer {O}×{I} at rank {rank} cannot use the shared {made.a} {list(A.shape)} and {made.b} "
                f"{list(B.shape)}"
            )
        return made

    def pair(self) -> Pair:
        A, B = self.shared.matrix(self.a), self.shared.matrix(self.b)
        if self.u is not None:
            A = self.shared.matrix(self.u)[:, None] * A
        if self.tied_v is not None:
            B = self.tied_v[:, None] * B
        return A, B * self.recipe.scale

    def settings(self) -> dict[str, Any]:
        return {"a": self.a, "b": self.b, "u": self.u, "v": self.tied_v is not None}

    def silent_at_first_step(self) -> set[str]:
        trained = isinstance(self.shared.matrix(self.b), nn.Parameter)
        return {"tied_v"} if self.tied_v is not None and trained else set()


@dataclass(frozen=True)
class TiedLoRA(LowRankMethod):
    """ΔW_l = s·diag(v_l)·B·diag(u_l)·A with A and B common to all layers (arXiv 2311.09578)."""

    rank: int = 8
    """The rank r."""
    alpha: float | None = None
    """The numerator of the scale alpha/rank; None: the rank, so that the scale is 1 as in the paper."""
    dropout: float = 0.0
    """Dropout on the input of the low-rank path only."""
    train: str | Sequence[str] = PARTS
    """Which of A, B, u and v train: all for TL6, `A,B` for TL5."""

    def problems(self) -> list[str]:
        found = [*super().problems(), *count_problems(self, "rank"), *dropout_problems(self)]
        found += [] if self.alpha is None else number_problems(self, "alpha")
        unknown = [part for part in self.trained if part not in PARTS]
        if unknown or len(set(self.trained)) < len(self.trained):
            found.append(f"train is {self.train!r} and must name some of {', '.join(PARTS)}, each once")
        elif not {"B", "v"} & set(self.trained):
            found.append(f"train is {self.train!r}: without B or v the update would stay zero for ever")
        return found

    @property
    def trained(self) -> tuple[str, ...]:
        """The parts that train."""
        return tuple(self.train.split(",")) if isinstance(self.train, str) else tuple(self.train)

    def recipe(self, path: str) -> Recipe:
        return Recipe(self.rank, float(self.rank if self.alpha is None else self.alpha), self.dropout)

    def makers(self, model: nn.Module, found: Sequence[Spot]) -> tuple[Maker | None, SharedMatrices | None]:
        endings = _attention_inputs(model)
        ties = {spot.path: _ties(spot, endings) for spot in found}
        shared = self._shared(found, ties)
        return lambda spot: self._start(spot, shared, *ties[spot.path]), shared

    def _shared(self, found: Sequence[Spot], ties: Mapping[str, tuple[str, str, str]]) -> SharedMatrices:
        """A random; B zero where it trains and random where not; u ones."""
        matrices: dict[str, Tensor] = {}
        trains: dict[str, bool] = {}
        for spot in found:
            a, b, u = ties[spot.path]
            if a not in matrices:
                matrices[a] = _uniform((self.rank, spot.in_features), spot.device)
            if b not in matrices:
                size = spot.out_features, self.rank
                zero = torch.zeros(size, device=spot.device)
                matrices[b] = zero if "B" in self.trained else _uniform(size, spot.device)
            trains |= {a: "A" in self.trained, b: "B" in self.trained}
            if "u" in self.trained and u not in matrices:
                matrices[u], trains[u] = torch.ones(self.rank, device=spot.device), True
        shared = SharedMatrices(matrices, trains)
        firsts = {b for _, b, _ in ties.values()} if "B" in self.trained else set()
        shared.silent = set(matrices) - firsts
        return shared

    def _start(self, spot: Spot, shared: SharedMatrices, a: str, b: str, u: str) -> LowRankDelta:
        made = TiedPair(
            spot.recipe,
            spot.out_features,
            spot.device,
            shared,
            a,
            b,
            u if "u" in self.trained else None,
            "v" in self.trained,
        )
        if made.tied_v is not None:
            with torch.no_grad():
                made.tied_v.fill_(1.0 if "B" in self.trained else 0.0)
        return made


def _uniform(size: tuple[int, int], device: torch.device) -> Tensor:
    bound = 1 / math.sqrt(size[1])
    return torch.empty(size, device=device).uniform_(-bound, bound)


def _ties(spot: Spot, attention_inputs: Sequence[str]) -> tuple[str, str, str]:
    """Names of the A, the B and the u that this matrix shares: by what it is called, its shape, and its block."""
    whole, _, part = spot.path.partition("[")
    parent, _, leaf = whole.rpartition(".")
    reads = INPUTS_OF_ATTENTION if any(_ends_in(spot.path, ending) for ending in attention_inputs) else leaf
    block = (parent or leaf).replace(".", "/")
    kind = leaf + (f"-{part.rstrip(']')}" if part else "")
    shape = f"{spot.out_features}x{spot.in_features}"
    return f"A/{reads}/{spot.in_features}", f"B/{kind}/{shape}", f"u/{block}/{reads}"


def _attention_inputs(model: nn.Module) -> list[str]:
    """Endings of the paths of the projections that read an attention's input; none for a family that is not known."""
    found: list[str] = []
    for alias in INPUTS_OF_ATTENTION:
        try:
            found += expand_alias(model, alias)
        except TargetError:
            continue
    return [*found, *dict.fromkeys(pattern.partition("[")[0] for pattern in found)]


def _ends_in(path: str, ending: str) -> bool:
    return path == ending or path.endswith(f".{ending}")
