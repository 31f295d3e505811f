"""Trained tensors that stay at least float32 when the model around them is cast to half precision.

An update is the sum of many small steps, and bfloat16 would lose most of them.
"""

from collections.abc import Callable, Mapping
from typing import Self

import torch
from torch import Tensor, nn


class WideModule(nn.Module):
    """A module whose parameters follow the model to another device, but not below float32."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def at_least_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.dtype in (torch.bfloat16, torch.float16):
                return tensor.to(device=moved.device, dtype=torch.float32)
            return moved

        super()._apply(at_least_float32, recurse)  # type: ignore[no-untyped-call]
        return self


class Added(WideModule):
    """Trained tensors that stand for no tensor of the base: an inserted layer's, a prefix's."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))
