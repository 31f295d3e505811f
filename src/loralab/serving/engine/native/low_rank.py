"""What adapters add to every row of a product, each row by its own adapter, in one call: see `low_rank.cpp`.

By torch's products that is a product a module and an adapter, or a wide one of which most is masked, and a dozen calls
a layer, each of which costs more than what it computes: rows with an adapter of rank r each take 2·r·(I + O) operations
beside the base's 2·I·O.

Shapes: N rows, P modules, C columns, I inputs, O outputs of all modules.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from loralab.nn.trial import agree
from loralab.serving.engine.native.compiled import library

NAMES = {torch.float32: "add_low_rank_float32", torch.bfloat16: "add_low_rank_bfloat16"}
_COUNT, _POINTER = ctypes.c_int64, ctypes.c_void_p
# x, its stride, y, its stride, extents, rows, A, inputs, modules, B, places, widths, threads
_ARGUMENTS = [_POINTER, _COUNT] * 2 + [_POINTER, _COUNT, _POINTER, _COUNT, _COUNT] + [_POINTER] * 3 + [_COUNT]


class LowRankKernel:
    """y += what the adapters add, for factors of one type in the processor's memory."""

    def __init__(self, function: Callable[..., None], dtype: torch.dtype) -> None:
        self._function, self.dtype = function, dtype

    def serves(self, like: Tensor) -> bool:
        """Whether it takes such factors."""
        return like.device.type == "cpu" and like.dtype == self.dtype

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


def low_rank_kernel(like: Tensor) -> LowRankKernel | str:
    """For factors of this type and device; or why there is none."""
    if like.device.type != "cpu" or like.dtype not in NAMES:
        return f"there is none for {str(like.dtype).removeprefix('torch.')} on {like.device.type}"
    built = library()
    if isinstance(built, str):
        return built
    function: Any = getattr(built, NAMES[like.dtype])
    function.argtypes, function.restype = _ARGUMENTS, None
    kernel = LowRankKernel(function, like.dtype)
    return kernel if _is_right(kernel) else "a trial of it differed"


def _is_right(kernel: LowRankKernel) -> bool:
    """Whether three rows of two modules get what torch adds to them, within the type's rounding."""
    source, widths = torch.Generator().manual_seed(0), (70, 9)
    x_NI, A_CPI, *Bs = (
        torch.randn(shape, generator=source).to(kernel.dtype)
        for shape in ((3, 50), (7, 2, 50), *((7, o) for o in widths))
    )
    seen = [(0, 4), (2, 2), (4, 7)]
    y_NO = torch.zeros(3, sum(widths), dtype=kernel.dtype)
    kernel(y_NO, (0, widths[0]), x_NI, torch.tensor(seen, dtype=torch.int32), A_CPI, Bs)
    rows = [
        torch.cat([x @ A_CPI[start:stop, p].T @ B[start:stop] for p, B in enumerate(Bs)])
        for x, (start, stop) in zip(x_NI, seen, strict=True)
    ]
    return agree(torch.stack(rows), y_NO)
