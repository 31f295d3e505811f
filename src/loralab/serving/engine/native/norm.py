"""RMSNorm of a few rows in one call: see `norm.cpp`.

Shapes: N rows, H width.
"""

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from loralab.serving.engine.native.numbers import refuse_other_numbers

NORM_ARGUMENTS = [
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_float,
    ctypes.c_void_p,
    *[ctypes.c_int64] * 3,
]


class NormKernel:
    """w·x·(mean x² + ε)^−½ in float32, rounded once."""

    def __init__(self, function: Callable[..., None], dtype: torch.dtype) -> None:
        self._function, self._dtype = function, dtype

    def __call__(self, x: Tensor, gain_H: Tensor, epsilon: float) -> Tensor:
        """Over the last dimension of x; the gain in float32."""
        refuse_other_numbers(self._dtype, x)
        x_NH = x.flatten(0, -2)
        x_NH = x_NH if x_NH.stride(-1) == 1 else x_NH.contiguous()
        y = torch.empty(x.shape, dtype=x.dtype)
        rows, width = x_NH.shape
        self._function(
            x_NH.data_ptr(), x_NH.stride(0), gain_H.data_ptr(), epsilon, y.data_ptr(), rows, width,
            torch.get_num_threads(),
        )  # fmt: skip
        return y
