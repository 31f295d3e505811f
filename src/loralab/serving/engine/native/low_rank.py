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

from loralab.serving.engine.native.numbers import refuse_other_numbers

_COUNT, _POINTER = ctypes.c_int64, ctypes.c_void_p
# the factors, x, its stride, y, its stride, extents, rows, threads
LOW_RANK_ARGUMENTS = [_POINTER, _POINTER, _COUNT, _POINTER, _COUNT, _POINTER, _COUNT, _COUNT]


class LowRankFactors(ctypes.Structure):
    """`Factors` of low_rank.cpp: where those of some modules are, and the outputs of each."""

    _fields_ = (
        ("A", _POINTER),
        ("inputs", _COUNT),
        ("modules", _COUNT),
        *((name, _POINTER) for name in ("B", "places", "widths")),
    )

    def __init__(self, A_CPI: Tensor, B: Sequence[Tensor], places: Sequence[int]) -> None:
        """Of module p: A[:, p] and `B[p]` [C, O_p], whose outputs begin at `places[p]`; good for as long as these
        tensors stay where they are.
        """
        count = len(B)
        pointers = (_POINTER * count)(*(each.data_ptr() for each in B))
        starts, widths = (_COUNT * count)(*places), (_COUNT * count)(*(each.shape[1] for each in B))
        addresses = [ctypes.addressof(each) for each in (pointers, starts, widths)]
        super().__init__(A_CPI.data_ptr(), A_CPI.shape[2], count, *addresses)
        self._kept = pointers, starts, widths, A_CPI, B


class LowRankKernel:
    """y += what the adapters add, for factors of one type in the processor's memory."""

    def __init__(self, function: Callable[..., None], dtype: torch.dtype) -> None:
        self._function, self._dtype = function, dtype

    def serves(self, like: Tensor) -> bool:
        """Whether it takes such factors."""
        return like.device.type == "cpu" and like.dtype == self._dtype

    def __call__(self, y_NO: Tensor, x_NI: Tensor, extents_N2: Tensor, factors: LowRankFactors) -> None:
        """Add to row n of y what columns `extents_N2[n]` (int32: first, one behind the last; the same for none) of the
        factors give for x.
        """
        refuse_other_numbers(self._dtype, y_NO, x_NI)
        x_NI = x_NI if x_NI.stride(-1) == 1 else x_NI.contiguous()
        self._function(
            ctypes.addressof(factors), x_NI.data_ptr(), x_NI.stride(0), y_NO.data_ptr(), y_NO.stride(0),
            extents_N2.data_ptr(), len(x_NI), torch.get_num_threads(),
        )  # fmt: skip
