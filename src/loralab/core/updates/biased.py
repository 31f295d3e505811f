"""A low-rank update of a dense layer that brings a bias to one that has none: h = W·x + s·B·A·x + b.

Where the layer has a bias, a trained one in its place says the same. A weight cannot take this up.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.updates.factors import LowRankDelta
from loralab.core.updates.low_rank import LinearUpdate

BIAS = "lora_bias"
"""What the trained bias is called."""


class BiasedLinear(LinearUpdate):
    """The update of a dense layer without a bias, and one for it: b [O]."""

    why_not_merged = "a bias of a layer that has none"

    def __init__(
        self,
        parts: Mapping[str, LowRankDelta],
        out_features: int,
        rows: Mapping[str, Tensor] | None = None,
        stored_transposed: bool = False,
    ) -> None:
        super().__init__(parts, out_features, rows, stored_transposed)
        device = next(self.parameters()).device
        self.added.register_parameter(BIAS, nn.Parameter(torch.zeros(out_features, device=device)))

    def set_bias(self, values_O: Tensor) -> None:
        """Take b from these values."""
        with torch.no_grad():
            if values_O.dtype == torch.float64:
                self.added.double()
            self.added.get_parameter(BIAS).copy_(values_O)

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        h: Tensor = self.call(base, *args, **kwargs)
        return h + self.beside(base, h, args[0])

    def beside(self, base: nn.Module, h: Tensor, x: Tensor) -> Tensor:
        return super().beside(base, h, x) + self.added.get_parameter(BIAS).to(h.dtype)

    def can_mix(self) -> bool:
        return False
