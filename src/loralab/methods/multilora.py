"""MultiLoRA (arXiv 2311.11501): several small LoRA side by side, none of which starts at zero, behind gates that do.

    ΔW = s · Σ_k diag(e_k)·B_k·A_k        A [N, R, I], B [N, O, R], gates e [N, O] (or [N, 1])

A_k and B_k are drawn at random and e = 0, so the start is the base and the first gradient is that of the gates alone.
The change of the start and the zero gates are from the paper's abstract; that a gate is a vector over the outputs is
the form of a public re-implementation, the paper's own is not confirmed (`gate="scalar"` is the other reading).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from loralab.core.updates.build import Maker
from loralab.core.updates.factors import LowRankDelta, Pair, Recipe, SharedMatrices, Spot
from loralab.methods.low_rank_method import ScaledMethod
from loralab.methods.specification import choice_problems, count_problems

GATES = ("vector", "scalar")


class GatedModules(LowRankDelta):
    """N pairs in parallel, each behind its gate; as one pair, of rank N·R."""

    kind = "multilora"

    def __init__(
        self, recipe: Recipe, out_features: int, in_features: int, device: torch.device, modules: int, gate: str
    ) -> None:
        super().__init__(recipe)
        self.lora_A = nn.Parameter(torch.empty(modules, recipe.rank, in_features, device=device))
        self.lora_B = nn.Parameter(torch.empty(modules, out_features, recipe.rank, device=device))
        self.lora_scaling = nn.Parameter(torch.empty(modules, out_features if gate == "vector" else 1, device=device))

    def start(self) -> "GatedModules":
        """A ~ U(±1/√I), B ~ U(±1/√R), closed gates; itself."""
        with torch.no_grad():
            for matrix in (self.lora_A, self.lora_B):
                bound = matrix.shape[-1] ** -0.5
                matrix.uniform_(-bound, bound)
            self.lora_scaling.zero_()
        return self

    def pair(self) -> Pair:
        gated_NOR = self.lora_scaling[:, :, None] * self.lora_B * self.recipe.scale
        return self.lora_A.flatten(0, 1), gated_NOR.permute(1, 0, 2).flatten(1)

    def settings(self) -> dict[str, Any]:
        return {"modules": len(self.lora_A), "gate": "scalar" if self.lora_scaling.shape[1] == 1 else "vector"}

    def silent_at_first_step(self) -> set[str]:
        return {"lora_A", "lora_B"}


@dataclass(frozen=True)
class MultiLoRA(ScaledMethod):
    """ΔW = s·Σ diag(e_k)·B_k·A_k with random A_k, B_k and gates e_k from zero (arXiv 2311.11501)."""

    alpha: float = 8.0
    """The numerator of the scale alpha/rank; the rank is that of each module, and modules·rank that of the sum."""
    modules: int = 3
    """How many there are side by side."""
    gate: str = "vector"
    """One gate per output and module (`vector`), or one per module (`scalar`)."""
    rank_stabilized: bool = False
    """Scale by α/√r instead."""

    def problems(self) -> list[str]:
        own = [*count_problems(self, "modules"), *choice_problems(self, "gate", GATES)]
        return [*super().problems(), *own]

    def recipe(self, path: str) -> Recipe:
        return Recipe(self.rank, float(self.alpha), self.dropout, self.rank_stabilized)

    def makers(self, model: nn.Module, found: Sequence[Spot]) -> tuple[Maker | None, SharedMatrices | None]:
        return self._start, None

    def _start(self, spot: Spot) -> LowRankDelta:
        made = GatedModules(spot.recipe, spot.out_features, spot.in_features, spot.device, self.modules, self.gate)
        return made.start()
