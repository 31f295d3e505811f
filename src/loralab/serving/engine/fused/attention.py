"""Attention over what a cache holds, and the rotation of queries and keys by position.

One token a row attends (`attend`), or a chunk of one text (`attend_among`).

    S = s·Q·Kᵀ,   S ← c·tanh(S/c) where it is capped,   P = softmax(S + mask),   O = P·V

Grouped keys and values are used as they are: the query heads of one key head are rows of one product.

Shapes: R rows, T tokens, G key heads, Q query heads, N columns of the cache, D head width, P positions, U rotated part
of D.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

LAYERS_ALIKE = 32
"""Masks of chunks that are kept: all layers that read some texts share those of each."""


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
        """x·cos + swapped(x)·sin of the first U of every head.

        In three roundings: those of a fused multiply and add would depend on where in memory a head lies.
        """
        width = self.cos.shape[-1]
        x, rest = heads[..., :width], heads[..., width:]
        swapped = torch.cat((x[..., width // 2 :], x[..., : width // 2]), -1)
        turned = (x * self.cos).add_(swapped.mul_(self.sin))
        return torch.cat((turned, rest), -1) if rest.shape[-1] else turned


def attend_among(
    query_TQD: Tensor, key_GND: Tensor, value_GND: Tensor, window: int | None, scale: float, cap: float | None
) -> Tensor:
    """[T, Q·D] of the newest T of a text's N tokens, each of which sees those up to itself, at most a window."""
    tokens, columns = len(query_TQD), key_GND.shape[1]
    query_QTD = query_TQD.transpose(0, 1)
    seen_TN = _seen_among(tokens, columns, window, query_TQD.device)
    if cap is None:
        o_QTD = F.scaled_dot_product_attention(
            query_QTD[None], key_GND[None], value_GND[None], seen_TN, scale=scale, enable_gqa=True
        )[0]
    else:
        repeats = len(query_QTD) // len(key_GND)
        scores = (query_QTD @ key_GND.repeat_interleave(repeats, 0).mT).mul_(scale).div_(cap).tanh_().mul_(cap)
        weights = scores.masked_fill_(~seen_TN, -torch.inf).softmax(-1, dtype=torch.float32).to(scores.dtype)
        o_QTD = weights @ value_GND.repeat_interleave(repeats, 0)
    return o_QTD.transpose(0, 1).flatten(1)


@lru_cache(maxsize=LAYERS_ALIKE)
def _seen_among(tokens: int, columns: int, window: int | None, device: torch.device) -> Tensor:
    """[T, N]: whether the newest T of N tokens see each."""
    ages_TN = torch.arange(columns - tokens, columns)[:, None] - torch.arange(columns)
    seen_TN = (ages_TN >= 0) if window is None else (ages_TN >= 0) & (ages_TN < window)
    return seen_TN.to(device)


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
