"""What adapters add to every row of a product, each row by its own adapter, in one call: see `low_rank.cpp`.

By torch's products that is a product a module and an adapter, or a wide one of which most is masked, and a dozen calls
a layer, each of which costs more than what it computes: rows with an adapter of rank r each take 2·r·(I + O) operations
beside the base's 2·I·O.

Shapes: N rows, P modules, C columns, I inputs, O outputs of all modules.
"""

import ctypes
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_COUNT, _POINTER = ctypes.c_int64, ctypes.c_void_p
# x, its stride, y, its stride, extents, rows, A, inputs, modules, B, places, widths, threads
LOW_RANK_ARGUMENTS = [_POINTER, _COUNT] * 2 + [_POINTER, _COUNT, _POINTER, _COUNT, _COUNT] + [_POINTER] * 3 + [_COUNT]


class LowRankKernel:
    """y += what the adapters add, for factors of one type in the processor's memory."""

    def __init__(self, function: Callable[..., None], dtype: torch.dtype) -> None:
        self._function, self._dtype = function, dtype

    def serves(self, like: Tensor) -> bool:
        """Whether it takes such factors."""
        return like.device.type == "cpu" and like.dtype == self._dtype

    def __call__(
        self, y_NO: Tensor, places: Sequence[int], x_NI: Tensor, extents_N2: Tensor, A_CPI: Tensor, B: Sequence[Tensor]
    ) -> None:
        """Add to row n of y, from output `places[p]` on, what columns `extents_N2[n]` (int32: first, one behind the
        last; the same for none) of A and of module p's `B[p]` [C, O_p] give for x.
        """
        count = len(B)
        x_NI = x_NI if x_NI.stride(-1) == 1 else x_NI.contiguous()
        self._function(
            x_NI.data_ptr(), x_NI.stride(0), y_NO.data_ptr(), y_NO.stride(0), extents_N2.data_ptr(), len(x_NI),
            A_CPI.data_ptr(), A_CPI.shape[2], count, (_POINTER * count)(*(each.data_ptr() for each in B)),
            (_COUNT * count)(*places), (_COUNT * count)(*(each.shape[1] for each in B)), torch.get_num_threads(),
        )  # fmt: skip
