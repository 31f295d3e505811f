"""Whether a lean function computes what a module computes: both are run on a few numbers, without dropout.

It knows neither norms nor gates.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from loralab.nn.trial import output_of

Forward = Callable[..., Any]
"""What stands for the `forward` of one module."""


def numbers_for(module: nn.Module, *shape: int) -> Tensor:
    """Normal numbers, the same each time, where the module's tensors are and in their precision."""
    floats = (tensor for tensor in chain(module.parameters(), module.buffers()) if tensor.is_floating_point())
    like = next(floats, torch.empty(0))  # of quantised projections the buffers
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)


def agrees(module: nn.Module, forward: Forward, x_NI: Tensor) -> bool:
    """Whether both give the same for every row of x but for rounding: 10⁻⁵ of the row's largest number in float32, four
    roundings in 16 bits."""
    own, lean = output_of(module, x_NI, module), output_of(forward, x_NI, module)
    if not isinstance(own, Tensor) or not isinstance(lean, Tensor):
        return False
    if own.shape != lean.shape or own.dtype != lean.dtype or own.ndim != 2:
        return False
    difference, largest = (own - lean).abs().amax(1), own.abs().amax(1)
    return bool((difference <= tolerance(own.dtype) * largest).all())


def tolerance(dtype: torch.dtype) -> float:
    """The share of the largest number by which two ways of computing it may differ."""
    eps = torch.finfo(dtype).eps
    return (80 if eps < 1e-6 else 4) * eps


def own_forward(module: nn.Module) -> Forward:
    """The forward of the module's class, whatever stands for it at this moment."""
    own: Forward = type(module).forward.__get__(module)
    return own
