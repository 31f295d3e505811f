"""Activated LoRA (aLoRA, arXiv 2504.12397) of a dense layer: a low-rank update that acts from its invocation on."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from loralab.core.rows.invocation import Starts
from loralab.core.updates.factors import LowRankDelta
from loralab.core.updates.low_rank import LinearUpdate
from loralab.core.updates.update import Update


class InvokedLinear(LinearUpdate):
    """The update of a dense layer at the positions where it acts; elsewhere the base's own output.

    Called without starts it acts at every position: an adapted layer always gives them.
    """

    why_not_merged = "a change from its invocation tokens on (aLoRA), where a weight would act at every position"

    def __init__(
        self,
        parts: Mapping[str, LowRankDelta],
        out_features: int,
        rows: Mapping[str, Tensor] | None = None,
        stored_transposed: bool = False,
        invocation: Sequence[int] = (),
    ) -> None:
        super().__init__(parts, out_features, rows, stored_transposed)
        self.invocation = tuple(invocation)

    def forward(self, base: nn.Module, *args: Any, starts: Starts | None = None, **kwargs: Any) -> Tensor:
        h: Tensor = self.call(base, *args, **kwargs)
        added = self.beside(base, h, args[0])
        return h + added if starts is None else starts.applied(h, added)

    def mixes_as(self) -> type[Update]:
        return LinearUpdate
