"""From which position of a sequence an adapter acts: the invocation of an activated LoRA (aLoRA, arXiv 2504.12397).

    h_t = W·x_t                    t < start: the base's own output, bit for bit, so its cached keys and values serve
    h_t = W·x_t + s·B·A·x_t        t ≥ start

The start is where the invocation tokens begin, at their last occurrence. Here it is data: a whole number for each
sequence, which whoever runs a model may look for with `invocation_starts`, or know.

Shapes: S sequences, T positions of one call of the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from loralab.errors import AdapterStateError, SpecError

NEVER = int(torch.iinfo(torch.int64).max)
"""The start of a sequence without an invocation: the adapter never acts there."""


def invocation_starts(input_ids: Tensor, invocation_tokens: Sequence[int]) -> Tensor:
    """[S]: where the last occurrence of the invocation begins in each sequence of `input_ids` [S, T], or `NEVER`.

    Positions are counted from the first column, padding included. SpecError for ids of another shape, or no tokens.
    """
    if input_ids.dim() != 2 or not invocation_tokens:
        raise SpecError(
            f"the tokens {list(invocation_tokens)} were looked for in ids of shape {list(input_ids.shape)}; give at "
            "least one token, and ids of shape [sequences, positions]"
        )
    tokens = torch.tensor(list(invocation_tokens), device=input_ids.device)
    never = torch.full((len(input_ids),), NEVER, device=input_ids.device)
    if input_ids.shape[1] < len(tokens) or not len(input_ids):
        return never
    is_there = (input_ids.unfold(1, len(tokens), 1) == tokens).all(-1)
    places = torch.arange(is_there.shape[1], device=input_ids.device)
    last = places.where(is_there, -1).amax(1)
    return last.where(last >= 0, never)


def shifted(starts_S: Tensor, by: int) -> Tensor:
    """Starts counted from another place; `NEVER` stays."""
    return (starts_S + by).where(starts_S != NEVER, starts_S)


@dataclass(frozen=True)
class Starts:
    """What one call of a model says to its layers: from which of its positions the adapter of each sequence acts."""

    first_S: Tensor
    """0 or less: from the first on. The number of positions or more: not in this call."""
    positions: int
    kept: Tensor | None = None
    """The positions that are left where the model computes the logits of some only."""

    def of(self, sequences: Tensor) -> "Starts":
        """Those of some sequences alone."""
        return replace(self, first_S=self.first_S.to(sequences.device)[sequences])

    def is_as(self, other: "Starts") -> bool:
        """Whether another call says the same."""
        return self.positions == other.positions and torch.equal(self.first_S, other.first_S)

    def applied(self, h: Tensor, added: Tensor) -> Tensor:
        """h + added where the adapter acts, and h itself, bit for bit, elsewhere."""
        return torch.where(self._acts(h), h + added, h)

    def _acts(self, h: Tensor) -> Tensor:
        """Whether the adapter acts, for h [S, T, …, O], or [S·T, …, O] as models have it that flatten the two."""
        places = torch.arange(self.positions, device=h.device)
        acts_ST = places >= self.first_S.to(h.device)[:, None]
        if h.shape[:2] == acts_ST.shape and h.dim() > 2:
            return acts_ST.view(*acts_ST.shape, *(1 for _ in h.shape[2:]))
        if h.shape[0] == acts_ST.numel():
            return acts_ST.view(-1, *(1 for _ in h.shape[1:]))
        kept_SK = acts_ST if self.kept is None else acts_ST[:, self.kept.to(h.device)]
        if h.shape[:2] == kept_SK.shape and h.dim() > 2:
            return kept_SK.view(*kept_SK.shape, *(1 for _ in h.shape[2:]))
        raise AdapterStateError(
            f"an adapter that acts from its invocation on is on a layer whose output is {list(h.shape)}, where the "
            f"model was called with {acts_ST.shape[0]} sequences of {self.positions} positions: which positions those "
            "are is not known; leave that layer out of targets"
        )
