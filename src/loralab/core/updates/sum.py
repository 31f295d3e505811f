"""Several adapters at one module at once: it computes with W + ΔW_a + ΔW_b + …, and never forms a ΔW that it need not.

An update that runs beside its module (a dense layer's, a convolution's, an embedding's) adds its own output, from
its own dropout of the input; those of raw weights are summed and put in place of the weight.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from loralab.core.updates.tokens import TokenUpdate
from loralab.core.updates.update import Update


class UpdateSum(Update):
    """The sum of updates that each are a change of the module's weights. It owns no tensors: they stay the members'."""

    def __init__(self, updates: Sequence[Update]) -> None:
        super().__init__({})
        self.updates = tuple(updates)
        self.features = updates[0].features if len({update.features for update in updates}) == 1 else None  # type: ignore[misc]
        self.inside = tuple(update for update in updates if not update.runs_beside)
        self.outside = tuple(update for update in updates if update.runs_beside)

    def deltas(self, base: nn.Module) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for update in self.updates:
            for name, D in update.deltas(base).items():
                total[name] = total[name] + D if name in total else D
        return total

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Any:
        inside = UpdateSum(self.inside).substituted(base) if self.inside else {}
        h = functional_call(base, inside, args, kwargs) if inside else base(*args, **kwargs)
        outside = [update.beside(base, h, args[0]) for update in self.outside]
        return h + sum(outside[1:], outside[0]) if outside else h

    @property
    def is_low_rank(self) -> bool:
        return any(update.is_low_rank for update in self.updates)

    def trial_input(self, base: nn.Module) -> Tensor | None:
        return self.updates[0].trial_input(base)

    def take_rows(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        return self.updates[0].take_rows(*args, **kwargs)

    def join_rows(self, *args: Any, **kwargs: Any) -> Any:
        return self.updates[0].join_rows(*args, **kwargs)


def why_not_summed(update: Update) -> str:
    """Why this update cannot act beside another adapter's; empty where it can."""
    if update.why_not_merged:
        return update.why_not_merged
    if isinstance(update, TokenUpdate):
        return "rows of single tokens (trainable_token_indices), which stand in the place of the base's"
    if not update.adds_up:
        return "stretched to trained lengths (DoRA), which rescale what another would add to"
    if update.replacements():
        return f"trained in full ({', '.join(update.replacements())}): a copy in the place of the base's, not a change"
    return ""
