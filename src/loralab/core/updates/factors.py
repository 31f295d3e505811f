"""Low-rank updates of one weight: the interface that all of them have, and the plain one, whose A and B both train.

    ΔW = s·B·A        A [R, I], B [O, R]

A `LowRankDelta` says what A and s·B are right now, as a differentiable function of the tensors it owns. That is all
that running, merging, mixing and exporting need, so a new method is a new class with its own `pair`.
"""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from loralab.core.init import INITIALISERS, initialise, reversed_normal
from loralab.core.math import scaling
from loralab.errors import SpecError
from loralab.nn.wide import WideModule


@dataclass(frozen=True)
class Recipe:
    """What a low-rank update of one weight is made from."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    rank_stabilized: bool = False
    init: str = "kaiming"

    @property
    def scale(self) -> float:
        """s, the factor of B·A."""
        return scaling(self.alpha, self.rank, self.rank_stabilized)

    def at_rank(self, rank: int, rank_stabilized: bool | None = None) -> "Recipe":
        """The recipe of the same scale at another rank, rank-stabilised or not as said, or as this one is."""
        stabilized = self.rank_stabilized if rank_stabilized is None else rank_stabilized
        if (rank, stabilized) == (self.rank, self.rank_stabilized):
            return self
        if stabilized != self.rank_stabilized:
            alpha = self.scale * (math.sqrt(rank) if stabilized else rank)
        else:
            alpha = self.alpha * math.sqrt(rank / self.rank) if stabilized else self.alpha * rank / self.rank
        return replace(self, rank=rank, alpha=alpha, rank_stabilized=stabilized)


def usual_and_others(recipes: Mapping[str, Recipe]) -> tuple[Recipe, dict[str, int], dict[str, float]]:
    """A recipe of the rank and alpha that most of these have, and by name the ranks and the alphas that are others."""
    (rank, alpha), _ = Counter((each.rank, each.alpha) for each in recipes.values()).most_common(1)[0]
    usual = next(each for each in recipes.values() if (each.rank, each.alpha) == (rank, alpha))
    ranks = {name: each.rank for name, each in recipes.items() if each.rank != rank}
    return usual, ranks, {name: each.alpha for name, each in recipes.items() if each.alpha != alpha}


Pair = tuple[Tensor, Tensor]
"""(A […, R, I], s·B […, O, R])."""


def _not_at_hand() -> Tensor:
    raise AssertionError("the frozen matrix of a delta that is made from a file was read")


@dataclass(frozen=True)
class Spot:
    """The matrix that one delta updates: a dense layer's weight, or the rows of it that make a part."""

    path: str
    """`h.0.attn.c_attn`, or with its part `h.0.attn.c_attn[q]`."""
    recipe: Recipe
    out_features: int
    in_features: int
    device: torch.device
    weight: Callable[[], Tensor] = _not_at_hand
    """The frozen matrix [O, I], in its own precision, computed on demand; a file without its model has none."""
    module: nn.Module | None = None
    """The layer that holds it."""
    shared: "SharedMatrices | None" = None
    """What the deltas of one adapter use together, where the values of this one come from a file."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """As `LowRankDelta.settings` gives them, of such a delta."""


class SharedMatrices(WideModule):
    """Matrices that many deltas of one adapter use: trained (a Parameter) or frozen (a buffer), kept and saved once."""

    def __init__(self, matrices: Mapping[str, Tensor], trained: Mapping[str, bool]) -> None:
        super().__init__()
        for name, matrix in matrices.items():
            if trained[name]:
                self.register_parameter(name, nn.Parameter(matrix))
            else:
                self.register_buffer(name, matrix)
        self.silent: set[str] = set()
        """Names of those whose gradient is rightly zero in the very first backward pass."""

    def stored(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of each."""
        yield from self.named_parameters(recurse=False)
        yield from self.named_buffers(recurse=False)

    def matrix(self, name: str) -> Tensor:
        """The matrix of this name."""
        tensor = getattr(self, name)
        assert isinstance(tensor, Tensor)
        return tensor

    def share(self, others: "SharedMatrices") -> None:
        """Let frozen matrices that are equal to those of another adapter be the very same tensors, in memory once."""
        theirs = dict(others.named_buffers(recurse=False))
        for name, matrix in self.named_buffers(recurse=False):
            known = theirs.get(name)
            if known is not None and known.device == matrix.device and _same_values(known, matrix):
                self._buffers[name] = known

    @torch.no_grad()
    def take(self, name: str, values: Tensor) -> None:
        """Copy values into the matrix of this name; a frozen one becomes another tensor, for it may be shared."""
        matrix = self.matrix(name)
        if name not in self._buffers:
            matrix.copy_(values)
        elif not torch.equal(matrix, values.to(matrix)):
            self._buffers[name] = values.to(matrix, copy=True)


def _same_values(one: Tensor, other: Tensor) -> bool:
    return not one.is_meta and one.dtype == other.dtype and torch.equal(one, other)


class LowRankDelta(WideModule, ABC):
    """ΔW = s·B·A of one weight, however A and B come about."""

    kind: ClassVar[str] = ""
    """Name in files; empty for `Factors`."""
    stored_as_lora: ClassVar[bool] = False
    """Whether files hold it as the plain pair that it comes to."""
    starts_at_A: bool = False
    """True if A, not B, starts at zero."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe

    @classmethod
    def blank(cls, spot: Spot) -> "LowRankDelta":
        """One whose own tensors are still to be filled."""
        make: Callable[..., LowRankDelta] = cls
        return make(spot.recipe, spot.out_features, spot.in_features, spot.device, **spot.settings)

    def zeroed(self, device: torch.device) -> Self:
        """This delta with its own tensors on a device, zero; what it shares stays as it is."""
        self.to_empty(device=device, recurse=False)
        with torch.no_grad():
            for _, tensor in self.stored():
                tensor.zero_()
        return self

    @torch.no_grad()
    def fill(self, values: Mapping[str, Tensor]) -> None:
        """Copy values into its own tensors, by their names; in float64 where some come in float64."""
        if any(each.dtype == torch.float64 for each in values.values()):
            self.double()
        for name, tensor in self.stored():
            tensor.copy_(values[name])

    @abstractmethod
    def pair(self) -> Pair:
        """A and s·B as this forward pass computes with them, differentiable in what trains."""

    def settled(self) -> Pair:
        """A and s·B as they are evaluated, merged and exported: without chance, without gradients."""
        with torch.no_grad():
            A, scaled_B = self.pair()
        return A.detach(), scaled_B.detach()

    def delta(self) -> Tensor:
        """ΔW […, O, I] as it is merged, in full: large, and so for looking at it only."""
        A, scaled_B = self.settled()
        return scaled_B @ A

    def as_lora(self) -> "Factors":
        """A plain pair with the very same ΔW, at this recipe's scale."""
        A, scaled_B = self.settled()
        scale, rank = self.recipe.scale, A.shape[-2]
        if scale == 0:
            return Factors.of(A, scaled_B, rank, like=self)
        return Factors.holding(self.recipe.at_rank(rank), A, scaled_B / scale, self.starts_at_A)

    def stored(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of what belongs to this delta alone, trained or frozen; shared matrices are not in it."""
        yield from self.named_parameters(recurse=False)
        yield from self.named_buffers(recurse=False)

    def settings(self) -> dict[str, Any]:
        """What beside the recipe and the shapes `blank` needs to make its like, as plain JSON."""
        return {}

    def silent_at_first_step(self) -> set[str]:
        """Names of tensors whose gradient is rightly zero, or missing, in the very first backward pass."""
        return set()

    def sleepers(self) -> set[str]:
        """Names of tensors that a forward pass may leave out by chance, so that they have no gradient after it."""
        return set()


class Factors(LowRankDelta):
    """A [R, …in] and B [O, …], trained in float32 (float64 in a float64 model), and their recipe."""

    def __init__(self, recipe: Recipe, A: Tensor, B: Tensor, starts_at_A: bool = False) -> None:
        """Trains these very tensors, in float32 or float64."""
        super().__init__(recipe)
        self.starts_at_A = starts_at_A
        self.lora_A, self.lora_B = nn.Parameter(A), nn.Parameter(B)

    @classmethod
    def drawn(
        cls,
        recipe: Recipe,
        A_shape: tuple[int, ...],
        B_shape: tuple[int, ...],
        device: torch.device,
        starts_at_A: bool = False,
    ) -> "Factors":
        """Fresh factors of these shapes."""
        A, B = drawn_pair(recipe, A_shape, B_shape, device, starts_at_A)
        return cls(recipe, A, B, starts_at_A)

    @classmethod
    def zeros(
        cls,
        recipe: Recipe,
        A_shape: tuple[int, ...],
        B_shape: tuple[int, ...],
        device: torch.device,
        starts_at_A: bool = False,
    ) -> "Factors":
        """Factors of these shapes whose values are to come. KeyError for a recipe that starts in no known way."""
        if not starts_at_A and recipe.init not in INITIALISERS:
            raise KeyError(recipe.init)
        A, B = (torch.zeros(shape, device=device, dtype=torch.float32) for shape in (A_shape, B_shape))
        return cls(recipe, A, B, starts_at_A)

    @classmethod
    def of(cls, A: Tensor, B: Tensor, rank: int, like: LowRankDelta) -> "Factors":
        """Factors with these values and scale 1."""
        recipe = replace(like.recipe, rank=rank, alpha=float(rank), rank_stabilized=False)
        return cls.holding(recipe, A, B, like.starts_at_A)

    @classmethod
    def holding(cls, recipe: Recipe, A: Tensor, B: Tensor, starts_at_A: bool = False) -> "Factors":
        """Factors of this recipe with copies of these values."""
        known = recipe if recipe.init in INITIALISERS else replace(recipe, init=Recipe.init)
        dtype = torch.float64 if torch.float64 in (A.dtype, B.dtype) else torch.float32
        A, B = (each.detach().to(device=A.device, dtype=dtype, copy=True) for each in (A, B))
        return cls(known, A, B, starts_at_A)

    def pair(self) -> Pair:
        return self.lora_A, self.scaled_B

    def as_lora(self) -> "Factors":
        return self

    @property
    def scaled_B(self) -> Tensor:
        """s·B."""
        return self.lora_B * self.recipe.scale

    def silent_at_first_step(self) -> set[str]:
        """The factor whose first gradient is exactly zero because the other one starts at zero."""
        return {"lora_B" if self.starts_at_A else "lora_A"}


def drawn_pair(
    recipe: Recipe,
    A_shape: tuple[int, ...],
    B_shape: tuple[int, ...],
    device: torch.device,
    starts_at_A: bool = False,
) -> tuple[Tensor, Tensor]:
    """A and B of these shapes as the recipe has them start, in float32."""
    A, B = (torch.empty(shape, device=device, dtype=torch.float32) for shape in (A_shape, B_shape))
    with torch.no_grad():
        if starts_at_A:
            reversed_normal(A, B)
        else:
            initialise(recipe.init, A, B)
    return A, B


def plain_pair(spot: Spot) -> Factors:
    """A fresh A and B for one matrix."""
    R = spot.recipe.rank
    return Factors.drawn(spot.recipe, (R, spot.in_features), (spot.out_features, R), spot.device)


def check_rank(recipe: Recipe, path: str, rows: int, columns: int) -> None:
    """Refuse a rank that is larger than the matrix it updates, [rows, columns]."""
    if recipe.rank > min(rows, columns):
        raise SpecError(
            f"rank {recipe.rank} is too large for {path} ({rows}×{columns}): choose at most {min(rows, columns)} there "
            "(rank_pattern sets it per module)"
        )
