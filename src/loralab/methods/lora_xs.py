"""LoRA-XS (arXiv 2405.17604): A and B are the principal directions of W, frozen; an R×R matrix between them trains.

    ΔW = s · U_r·Σ_r · M · V_rᵀ        from W = U·Σ·Vᵀ;  M [R, R] trained

r² parameters a layer, whatever its width: at r = 8, 64 of them. M starts at zero (the paper draws it from N(0, 10⁻¹⁰)),
so the start is the base bit for bit; its gradient is not zero there, for neither U_r·Σ_r nor V_r is.
The frozen directions are saved with M: a second SVD might turn their signs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loralab.core.updates.build import Maker
from loralab.core.updates.factors import LowRankDelta, Pair, Recipe, SharedMatrices, Spot
from loralab.methods.low_rank_method import ScaledMethod
from loralab.methods.pissa import principal_of_spot


class CoreMatrix(LowRankDelta):
    """ΔW = s·B·M·A with A [R, I] and B [O, R] frozen."""

    kind = "lora-xs"

    def __init__(self, recipe: Recipe, out_features: int, in_features: int, device: torch.device) -> None:
        super().__init__(recipe)
        self.lora_M = nn.Parameter(torch.empty(recipe.rank, recipe.rank, device=device))
        self.frozen_A: Tensor
        self.frozen_B: Tensor
        self.register_buffer("frozen_A", torch.empty(recipe.rank, in_features, device=device))
        self.register_buffer("frozen_B", torch.empty(out_features, recipe.rank, device=device))

    @classmethod
    def start(cls, spot: Spot) -> "CoreMatrix":
        """In the principal directions of the matrix, with M = 0."""
        made = cls(spot.recipe, spot.out_features, spot.in_features, spot.device)
        with torch.no_grad():
            made.lora_M.zero_()
            B, A = principal_of_spot(spot)
            root = A.norm(dim=1)  # √σ, which the two share equally
            made.frozen_A.copy_(A / root.clamp(min=torch.finfo(A.dtype).tiny)[:, None])
            made.frozen_B.copy_(B * root)
        return made

    def pair(self) -> Pair:
        return self.frozen_A, self.frozen_B @ self.lora_M * self.recipe.scale


@dataclass(frozen=True)
class LoRAXS(ScaledMethod):
    """An R×R matrix trains between the frozen principal directions of W (arXiv 2405.17604)."""

    alpha: float = 8.0
    """The numerator of the scale alpha/rank; r² parameters train in each layer."""

    def makers(self, model: nn.Module, found: Sequence[Spot]) -> tuple[Maker | None, SharedMatrices | None]:
        return CoreMatrix.start, None
