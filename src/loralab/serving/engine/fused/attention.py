"""Attention of one token a row over what a cache holds of it, and the rotation of queries and keys by position.

    S = s·Q·Kᵀ,   S ← c·tanh(S/c) where it is capped,   P = softmax(S + mask),   O = P·V

Grouped keys and values are used as they are: the query heads of one key head are rows of one product.

Shapes: R rows, G key heads, Q query heads, N columns of the cache, D head width, P positions, U rotated part of D.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotation:
    """cos and sin [P, U] of every position; the sin of the first half negated, as what it multiplies is swapped."""

    cos_PU: Tensor
    sin_PU: Tensor

    @classmethod
    def of(cls, cos_PU: Tensor, sin_PU: Tensor) -> "Rotation":
        """From the tables that models have."""
        half = sin_PU.shape[-1] // 2
        return cls(cos_PU, torch.cat((-sin_PU[:, :half], sin_PU[:, half:]), -1))

    def at(self, positions_R: Tensor) -> "Turn":
        """For tokens at these positions."""
        return Turn(self.cos_PU[positions_R, None], self.sin_PU[positions_R, None])


@dataclass(frozen=True)
class Turn:
    """What heads [R, heads, D] are turned by: cos and sin [R, 1, U]."""

    cos: Tensor
    sin: Tensor

    def __call__(self, heads: Tensor) -> Tensor:
        """x·cos + swapped(x)·sin of the first U of every head."""
        width = self.cos.shape[-1]
        x, rest = heads[..., :width], heads[..., width:]
        swapped = torch.cat((x[..., width // 2 :], x[..., : width // 2]), -1)
        turned = torch.addcmul(x * self.cos, swapped, self.sin)
        return torch.cat((turned, rest), -1) if rest.shape[-1] else turned


def attend(
    query_RQD: Tensor, key_RGND: Tensor, value_RGND: Tensor, mask_R1N: Tensor | None, scale: float, cap: float | None
) -> Tensor:
    """[R, Q·D]; the mask is added to the scores."""
    rows, groups, _, width = key_RGND.shape
    query = query_RQD.reshape(rows * groups, -1, width)
    scores = torch.bmm(query, key_RGND.flatten(0, 1).mT).mul_(scale)
    if cap is not None:
        scores.div_(cap).tanh_().mul_(cap)
    if mask_R1N is not None:
        scores.view(rows, -1, scores.shape[-1]).add_(mask_R1N)
    weights = scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
    return torch.bmm(weights, value_RGND.flatten(0, 1)).view(rows, -1)
