"""LoRA-FA (arXiv 2308.03303): A stays as it was drawn and B alone trains.

The backward pass then needs only the r-wide x·Aᵀ of each adapted layer, not its whole input.

Of B's gradient there are two forms. The older one takes it as it comes, ∂B = s·G·Aᵀ with G = ∂W. The later one (as in
PEFT's optimizer) turns it to ∂B·(A·Aᵀ)⁻¹/s²: a step against it changes s·B·A by G·Aᵀ(A·Aᵀ)⁻¹·A, which is the
gradient of the full weight projected onto the rows of A, and nothing that keeps A comes nearer to it. Adam then scales
what it is given, in either form.
"""

from typing import Self

import torch
from torch import Tensor

from loralab.core.updates.factors import Factors, Recipe, Spot, drawn_pair

DAMPING = 1e-8
"""Added to the diagonal of A·Aᵀ."""


class FrozenA(Factors):
    """ΔW = s·B·A with A [R, I] a frozen buffer."""

    kind = "frozen A"

    def __init__(self, recipe: Recipe, out_features: int, in_features: int, device: torch.device) -> None:
        A, B = drawn_pair(recipe, (recipe.rank, in_features), (out_features, recipe.rank), device)
        super().__init__(recipe, A, B)
        del self.lora_A
        self.lora_A: Tensor  # type: ignore[assignment]
        self.register_buffer("lora_A", A)

    @classmethod
    def start(cls, spot: Spot) -> Self:
        """As LoRA starts."""
        return cls(spot.recipe, spot.out_features, spot.in_features, spot.device)

    @classmethod
    def start_nearest(cls, spot: Spot) -> Self:
        """A frozen A whose B has its gradient turned in every backward pass."""
        made = cls.start(spot)
        made.lora_B.register_hook(made.turned)  # type: ignore[no-untyped-call]
        return made

    @torch.no_grad()
    def turned(self, gradient_OR: Tensor) -> Tensor:
        """∂B·(A·Aᵀ)⁻¹/s² [O, R]. It is linear in ∂B, so gradients of several batches may be added before or after."""
        gram_RR = self.lora_A @ self.lora_A.T
        gram_RR.diagonal().add_(DAMPING)
        turned_OR: Tensor = torch.linalg.solve(gram_RR, gradient_OR, left=False)
        return turned_OR / self.recipe.scale**2

    def silent_at_first_step(self) -> set[str]:
        return set()
