"""One pair of low-rank factors: the parameters A and B and their scale."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from loralab.core.init import initialise, reversed_normal
from loralab.core.math import scaling
from loralab.core.wide import WideModule
from loralab.errors import SpecError


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


class Factors(WideModule):
    """A [R, …in] and B [O, …], trained in float32 (float64 in a float64 model), and their recipe."""

    def __init__(
        self,
        recipe: Recipe,
        A_shape: tuple[int, ...],
        B_shape: tuple[int, ...],
        device: torch.device,
        starts_at_A: bool = False,
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.starts_at_A = starts_at_A
        self.lora_A = nn.Parameter(torch.empty(A_shape, device=device, dtype=torch.float32))
        self.lora_B = nn.Parameter(torch.empty(B_shape, device=device, dtype=torch.float32))
        with torch.no_grad():
            if starts_at_A:
                reversed_normal(self.lora_A, self.lora_B)
            else:
                initialise(recipe.init, self.lora_A, self.lora_B)

    @classmethod
    def of(cls, A: Tensor, B: Tensor, rank: int, like: "Factors") -> "Factors":
        """Factors with these values and scale 1."""
        recipe = replace(like.recipe, rank=rank, alpha=float(rank), rank_stabilized=False)
        made = cls(recipe, tuple(A.shape), tuple(B.shape), A.device, like.starts_at_A)
        with torch.no_grad():
            made.lora_A.copy_(A)
            made.lora_B.copy_(B)
        return made

    @property
    def scaled_B(self) -> Tensor:
        """s·B."""
        return self.lora_B * self.recipe.scale

    @property
    def silent_at_first_step(self) -> str:
        """The factor whose first gradient is exactly zero because the other one starts at zero."""
        return "lora_B" if self.starts_at_A else "lora_A"


def check_rank(recipe: Recipe, path: str, rows: int, columns: int) -> None:
    """Refuse a rank that is larger than the matrix it updates, [rows, columns]."""
    if recipe.rank > min(rows, columns):
        raise SpecError(
            f"rank {recipe.rank} was asked for {path}, whose weight is {rows}×{columns}; "
            f"choose a rank of at most {min(rows, columns)} there (rank_pattern sets it per module)"
        )
