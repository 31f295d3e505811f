"""AdaMix (arXiv 2205.12410), bottleneck form: M experts of the down- and the up-projection of a bottleneck adapter.

    training:    h + Up_j·GELU(Down_i·h + b_i) + c_j,    i and j drawn at random and independently for every batch
    otherwise:   the same with the means of the weights *and* of the biases

The experts follow the feed-forward of each block. The up-projection is shared by default, as in the released scripts.
The nonlinearity makes the mean an approximation here, not the expectation; `averaged` is one plain bottleneck.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from loralab.core.updates.update import WHOLE, Update
from loralab.methods.adamix import SHARED_SIDES
from loralab.methods.bottleneck import STYLES, BottleneckAdapter, BottleneckUpdate, bottleneck
from loralab.methods.specification import choice_problems, count_problems

STYLE = "adamix"


class MixedBottleneckUpdate(Update):
    """The module's output h [..., d] under one expert at a time, or under the mean of all of them."""

    kind = "mixed bottleneck"
    why_not_merged: ClassVar[str] = BottleneckUpdate.why_not_merged

    def __init__(self, width: int, size: int, experts: int, shared_side: str, device: torch.device) -> None:
        down, up = (1 if shared_side == "A" else experts), (1 if shared_side == "B" else experts)
        shapes: dict[str, tuple[int, ...]] = {f"down_weight_{i}": (size, width) for i in range(down)}
        shapes |= {f"down_bias_{i}": (size,) for i in range(down)}
        shapes |= {f"up_weight_{j}": (width, size) for j in range(up)}
        shapes |= {f"up_bias_{j}": (width,) for j in range(up)}
        super().__init__({}, added={name: torch.zeros(shape, device=device) for name, shape in shapes.items()})
        self.width, self.size, self.experts, self.shared_side = width, size, experts, shared_side
        self.counts = {"down": down, "up": up}

    def settings(self) -> dict[str, Any]:
        sizes = {"width": self.width, "size": self.size}
        return sizes | {"experts": self.experts, "shared_side": self.shared_side}

    def built_on(self, base: nn.Module) -> list[str]:
        return [WHOLE]

    def reset(self) -> None:
        """Every Down ~ U(±1/√d) by itself, everything else zero: the layer adds nothing."""
        with torch.no_grad():
            for number in range(self.counts["down"]):
                self.added.get_parameter(f"down_weight_{number}").uniform_(-(self.width**-0.5), self.width**-0.5)

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        h: Tensor = self.call(base, *args, **kwargs)
        weights = self._drawn() if self.training else self._mean()
        return h + bottleneck(h, {name: tensor.to(h.dtype) for name, tensor in weights.items()}, STYLES[STYLE])

    def averaged(self) -> BottleneckUpdate:
        """The plain bottleneck that these experts are outside training."""
        made = BottleneckUpdate(self.width, self.size, STYLE, self.added.get_parameter("up_bias_0").device)
        with torch.no_grad():
            for name, tensor in self._mean().items():
                made.added.get_parameter(name).copy_(tensor)
        return made

    def silent_at_first_step(self) -> set[str]:
        """Everything before Up, while Up is zero."""
        return {name for name, _ in self.added.named_parameters() if not name.startswith("up_")}

    def sleepers(self) -> set[str]:
        names = [name for name, _ in self.added.named_parameters()]
        return {name for name in names if self.counts[name.partition("_")[0]] > 1}

    def _drawn(self) -> dict[str, Tensor]:
        chosen = {side: int(torch.randint(count, ())) if count > 1 else 0 for side, count in self.counts.items()}
        return {
            f"{side}_{leaf}": self.added.get_parameter(f"{side}_{leaf}_{number}")
            for side, number in chosen.items()
            for leaf in ("weight", "bias")
        }

    def _mean(self) -> dict[str, Tensor]:
        return {
            f"{side}_{leaf}": self._average([f"{side}_{leaf}_{number}" for number in range(count)])
            for side, count in self.counts.items()
            for leaf in ("weight", "bias")
        }

    def _average(self, names: Sequence[str]) -> Tensor:
        return torch.stack([self.added.get_parameter(name) for name in names]).mean(0)


@dataclass(frozen=True)
class AdaMixAdapter(BottleneckAdapter):
    """M experts of a bottleneck behind every feed-forward; one at random trains, their mean is the adapter."""

    style: str = STYLE
    experts: int = 4
    """How many there are, M."""
    share: str = "B"
    """The side of which there is one copy: up (`B`, as released), down (`A`), or `none`."""

    def problems(self) -> list[str]:
        own = [*count_problems(self, "experts"), *choice_problems(self, "share", SHARED_SIDES)]
        return [*super().problems(), *choice_problems(self, "style", [STYLE]), *own]

    def fresh_update(self, width: int, device: torch.device) -> Update:
        update = MixedBottleneckUpdate(width, self.size, self.experts, self.share, device)
        update.reset()
        return update
