"""VeRA (arXiv 2310.11454): one random pair A, B for all layers, frozen; each layer trains two vectors that scale it.

    h = W·x + b ⊙ (B·(d ⊙ (A·x)))        A [R, I], B [O, R] shared and frozen;  d [R], b [O] trained

A ~ U(±√(6/I)), B ~ U(±√(6/R)), d = 0.1 and b = 0 at the start, so that the start is the base. There is no α/r. Layers
of several shapes use a corner of the largest: A[:, :I], B[:O], as PEFT does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from loralab.core.updates.build import Maker
from loralab.core.updates.factors import LowRankDelta, Pair, Recipe, SharedMatrices, Spot
from loralab.errors import AdapterFileError, SpecError
from loralab.methods.low_rank_method import LowRankMethod
from loralab.methods.specification import count_problems, dropout_problems, number_problems

A_NAME, B_NAME = "vera_A", "vera_B"
LAMBDA_D, LAMBDA_B = "vera_lambda_d", "vera_lambda_b"


class ScaledProjections(LowRankDelta):
    """ΔW = diag(b)·B·diag(d)·A with A and B shared."""

    kind = "vera"

    def __init__(self, recipe: Recipe, out_features: int, device: torch.device, shared: SharedMatrices) -> None:
        super().__init__(recipe)
        self.shared = shared
        self.vera_lambda_d = nn.Parameter(torch.empty(recipe.rank, device=device))
        self.vera_lambda_b = nn.Parameter(torch.empty(out_features, device=device))
        self.in_features = 0

    @classmethod
    def blank(cls, spot: Spot) -> LowRankDelta:
        if spot.shared is None:
            raise AdapterFileError("a VeRA adapter without its shared projections cannot be made")
        made = cls(spot.recipe, spot.out_features, spot.device, spot.shared)
        made.in_features = spot.in_features
        check_fits(spot.shared, spot.recipe.rank, spot.out_features, spot.in_features)
        return made

    def pair(self) -> Pair:
        A, B = self.shared.matrix(A_NAME), self.shared.matrix(B_NAME)
        O, R = len(self.vera_lambda_b), self.recipe.rank  # noqa: E741
        return self.vera_lambda_d[:, None] * A[:R, : self.in_features], self.vera_lambda_b[:, None] * B[:O, :R]

    def silent_at_first_step(self) -> set[str]:
        return {LAMBDA_D}


def check_fits(shared: SharedMatrices, rank: int, out_features: int, in_features: int) -> None:
    """AdapterFileError if a layer [O, I] is larger than the shared projections."""
    (R, widest_in), (widest_out, _) = shared.matrix(A_NAME).shape, shared.matrix(B_NAME).shape
    if rank > R or in_features > widest_in or out_features > widest_out:
        raise AdapterFileError(
            f"a layer {out_features}×{in_features} at rank {rank} was to use VeRA's shared projections, which are for "
            f"at most {widest_out}×{widest_in} at rank {R}"
        )


def projections(rank: int, out_features: int, in_features: int, seed: int, device: torch.device) -> SharedMatrices:
    """A [R, I] and B [O, R] for the widest layers, drawn on the CPU in float32 as PEFT draws them: A first, then B."""
    generator = torch.Generator().manual_seed(seed)
    A, B = torch.empty(rank, in_features), torch.empty(out_features, rank)
    for matrix in (A, B):
        bound = math.sqrt(6 / matrix.shape[1])
        matrix.uniform_(-bound, bound, generator=generator)
    return SharedMatrices({A_NAME: A.to(device), B_NAME: B.to(device)}, {A_NAME: False, B_NAME: False})


@dataclass(frozen=True)
class VeRA(LowRankMethod):
    """h = W·x + b ⊙ (B·(d ⊙ (A·x))): two vectors per layer train (arXiv 2310.11454)."""

    rank: int = 256
    """The rank of the shared projections; it may exceed a layer's own width."""
    dropout: float = 0.0
    """Dropout on the input of the low-rank path only."""
    d_initial: float = 0.1
    """What every entry of d starts at."""
    projection_seed: int = 0
    """Of the projections, whatever the run's seed: PEFT's projection_prng_key."""

    rank_within_width: ClassVar[bool] = False

    def problems(self) -> list[str]:
        found = [*super().problems(), *count_problems(self, "rank"), *dropout_problems(self)]
        found += number_problems(self, "d_initial")
        if self.d_initial == 0:
            found.append("d_initial is 0: with b at 0 too, nothing would ever train")
        return found

    def recipe(self, path: str) -> Recipe:
        return Recipe(self.rank, float(self.rank), self.dropout)

    def makers(self, model: nn.Module, found: Sequence[Spot]) -> tuple[Maker | None, SharedMatrices | None]:
        if not found:
            raise SpecError("VeRA adapts dense layers, and none of the targets is one")
        widest_out, widest_in = max(spot.out_features for spot in found), max(spot.in_features for spot in found)
        shared = projections(self.rank, widest_out, widest_in, self.projection_seed, found[0].device)
        return lambda spot: self._start(spot, shared), shared

    def _start(self, spot: Spot, shared: SharedMatrices) -> LowRankDelta:
        made = ScaledProjections(spot.recipe, spot.out_features, spot.device, shared)
        made.in_features = spot.in_features
        with torch.no_grad():
            made.vera_lambda_d.fill_(self.d_initial)
            made.vera_lambda_b.zero_()
        return made
