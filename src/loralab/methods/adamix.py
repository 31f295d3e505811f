"""AdaMix (arXiv 2205.12410), LoRA form: M experts of A and of B, one of which is drawn for every training pass.

    training:    y = W·x + s·B_j·A_i·x,    i and j drawn at random and independently, one draw for the whole batch
    otherwise:   y = W·x + s·B̄·Ā·x,        the means of the experts

Because the two draws are independent (or one side has a single copy), E[B_j·A_i] = B̄·Ā exactly, so averaging is the
expectation of what trained; with one index for both it would not be. Sharing B over the experts is the setting of the
released scripts. The A start at random one by one (the released code copies one A into all), the B at zero.

A draw is from torch's global CPU generator inside the layer's own forward, so that gradient checkpointing, which
restores that generator, repeats it. Nothing of the averages is kept: they are made anew when they are asked for.
The consistency loss that keeps the experts compatible is in `training/objective.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.init import initialise
from loralab.core.updates.build import Maker
from loralab.core.updates.factors import LowRankDelta, Pair, Recipe, SharedMatrices, Spot
from loralab.methods.low_rank_method import ScaledMethod
from loralab.methods.specification import choice_problems, count_problems

SHARED_SIDES = ("B", "A", "none")


class Experts(LowRankDelta):
    """Several A [R, I] and B [O, R], of which one pair at a time trains."""

    kind = "adamix"

    def __init__(
        self, recipe: Recipe, out_features: int, in_features: int, device: torch.device, experts_A: int, experts_B: int
    ) -> None:
        super().__init__(recipe)
        self.names_A = [f"lora_A_{number}" for number in range(experts_A)]
        self.names_B = [f"lora_B_{number}" for number in range(experts_B)]
        for name in self.names_A:
            self.register_parameter(name, nn.Parameter(torch.empty(recipe.rank, in_features, device=device)))
        for name in self.names_B:
            self.register_parameter(name, nn.Parameter(torch.empty(out_features, recipe.rank, device=device)))

    def start(self) -> "Experts":
        """As LoRA starts, every A by itself; itself."""
        for name_A in self.names_A:
            for name_B in self.names_B:
                initialise(self.recipe.init, self.get_parameter(name_A), self.get_parameter(name_B))
        return self

    def pair(self) -> Pair:
        if not self.training:
            return self._mean(self.names_A), self._mean(self.names_B) * self.recipe.scale
        return self._drawn(self.names_A), self._drawn(self.names_B) * self.recipe.scale

    def settled(self) -> Pair:
        A, scaled_B = self._mean(self.names_A), self._mean(self.names_B) * self.recipe.scale
        return A.detach(), scaled_B.detach()

    def settings(self) -> dict[str, Any]:
        return {"experts_A": len(self.names_A), "experts_B": len(self.names_B)}

    def silent_at_first_step(self) -> set[str]:
        return set(self.names_A)

    def sleepers(self) -> set[str]:
        return {name for names in (self.names_A, self.names_B) if len(names) > 1 for name in names}

    def _mean(self, names: Sequence[str]) -> Tensor:
        first = self.get_parameter(names[0])
        return first if len(names) == 1 else torch.stack([self.get_parameter(name) for name in names]).mean(0)

    def _drawn(self, names: Sequence[str]) -> Tensor:
        return self.get_parameter(names[int(torch.randint(len(names), ())) if len(names) > 1 else 0])


@dataclass(frozen=True)
class AdaMix(ScaledMethod):
    """M experts of each low-rank factor; one pair at random trains, their mean is the adapter (arXiv 2205.12410)."""

    experts: int = 4
    """How many there are, M."""
    share: str = "B"
    """The side of which there is one copy: `B` (as released), `A`, or `none`."""

    def problems(self) -> list[str]:
        own = [*count_problems(self, "experts"), *choice_problems(self, "share", SHARED_SIDES)]
        return [*super().problems(), *own]

    def makers(self, model: nn.Module, found: Sequence[Spot]) -> tuple[Maker | None, SharedMatrices | None]:
        return self._start, None

    def _start(self, spot: Spot) -> LowRankDelta:
        counts = {side: 1 if self.share == side else self.experts for side in ("A", "B")}
        return Experts(spot.recipe, spot.out_features, spot.in_features, spot.device, counts["A"], counts["B"]).start()
