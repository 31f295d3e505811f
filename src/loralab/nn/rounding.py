"""Whether two outputs of one model are the same but for rounding."""

import torch
from torch import Tensor

ROUNDING = 1e3
"""Outputs that differ by less than this many roundings of the model's precision are the same."""
MOST_ROUNDING = 0.1
"""And never by more than this share of the largest output: for bfloat16, where a single rounding is 0.8%."""


def same_but_for_rounding(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    """Whether the outputs of a model that computes in `dtype` are the same, by the largest of `one`."""
    one, other = one.float(), other.float()
    share = min(ROUNDING * torch.finfo(dtype).eps, MOST_ROUNDING)
    return bool((one - other).abs().max() <= share * one.abs().max().clamp(min=1e-3))
