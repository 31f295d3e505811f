"""The middle of a gated layer in one call: see `gate.cpp`.

Shapes: N rows, F width of the layer.
"""

import ctypes
import math
from collections.abc import Callable

import torch
from torch import Tensor

from loralab.serving.engine.native.numbers import refuse_other_numbers

_COUNT, _POINTER = ctypes.c_int64, ctypes.c_void_p
# g and u, their stride, y, rows, width, a, b, threads
GATE_ARGUMENTS = [_POINTER, _COUNT, _POINTER, _COUNT, _COUNT, ctypes.c_float, ctypes.c_float, _COUNT]
Curve = tuple[float, float]
"""a and b of g·σ(a·g + b·g³)."""
SILU: Curve = (1.0, 0.0)
TANH_GELU: Curve = (2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715)


class GateKernel:
    """g·σ(a·g + b·g³)·u."""

    def __init__(self, function: Callable[..., None], dtype: torch.dtype) -> None:
        self._function, self._dtype = function, dtype

    def __call__(self, gate_up: Tensor, curve: Curve) -> Tensor:
        """[N, F] of g and u side by side, [N, 2·F]."""
        refuse_other_numbers(self._dtype, gate_up)
        gate_up = gate_up if gate_up.stride(-1) == 1 else gate_up.contiguous()
        rows, width = len(gate_up), gate_up.shape[1] // 2
        y = gate_up.new_empty(rows, width)
        self._function(
            gate_up.data_ptr(), gate_up.stride(0), y.data_ptr(), rows, width, *curve, torch.get_num_threads()
        )
        return y
