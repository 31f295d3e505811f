"""LoRA-FA (arXiv 2308.03303): A stays as it was drawn and B alone trains.

The backward pass then needs only the r-wide x·Aᵀ of each adapted layer, not its whole input. This is the plain form;
that the gradient of B be multiplied by (A·Aᵀ)⁻¹ is a later form of it.
"""

from typing import Self

import torch
from torch import Tensor

from loralab.core.factors import Factors, Recipe, Spot


class FrozenA(Factors):
    """ΔW = s·B·A with A [R, I] a frozen buffer."""

    kind = "frozen A"

    def __init__(self, recipe: Recipe, out_features: int, in_features: int, device: torch.device) -> None:
        super().__init__(recipe, (recipe.rank, in_features), (out_features, recipe.rank), device)
        drawn = self.lora_A.detach()
        del self.lora_A
        self.lora_A: Tensor  # type: ignore[assignment]
        self.register_buffer("lora_A", drawn)

    @classmethod
    def start(cls, spot: Spot) -> Self:
        """As LoRA starts."""
        return cls(spot.recipe, spot.out_features, spot.in_features, spot.device)

    def silent_at_first_step(self) -> set[str]:
        return set()
