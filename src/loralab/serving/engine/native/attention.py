"""What the newest token of every row attends to, in one call a layer: see `attention.cpp`.

By torch's products it is a dozen calls a layer over a padded batch, and a row's sums depend on how far it is padded;
here they go over the row's own tokens.

Shapes: R rows, Q query heads, G key heads, D head width, U turned part of D, N columns of the cache.
"""

import ctypes
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from loralab.serving.engine.native.numbers import refuse_other_numbers

_POINTERS = ("query", "key", "value", "cosine", "sine", "keys", "values", "output", "firsts")
_COUNTS = (
    *("query_stride", "key_stride", "value_stride", "rows", "heads", "groups", "width", "turned", "columns"),
    *("now", "window", "threads"),
)


class AttentionStep(ctypes.Structure):
    """`Step` of attention.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _COUNTS),
        ("scale", ctypes.c_float),
        ("cap", ctypes.c_float),
    )


class AttentionKernel:
    """Turns queries and keys, writes keys and values, and attends."""

    def __init__(self, function: Callable[..., None], dtype: torch.dtype) -> None:
        self._function, self._dtype = function, dtype

    def __call__(
        self,
        query_RQD: Tensor,
        key_RGD: Tensor,
        value_RGD: Tensor,
        cos: Tensor,
        sin: Tensor,
        keys_RGND: Tensor,
        values_RGND: Tensor,
        firsts_R: Tensor,
        now: int,
        window: int | None,
        scale: float,
        cap: float | None,
    ) -> Tensor:
        """[R, Q·D] of tokens that are written to column `now` of the cache; row r's first is in column `firsts_R[r]`
        (int32). cos and sin [R, 1, U], the first half of sin negated."""
        refuse_other_numbers(self._dtype, query_RQD, key_RGD, value_RGD, cos, sin, keys_RGND, values_RGND)
        query, key, value = (_with_whole_rows(each) for each in (query_RQD, key_RGD, value_RGD))
        rows, heads, width = query.shape
        output = query.new_empty(rows, heads * width)
        tensors = (query, key, value, cos, sin, keys_RGND, values_RGND, output, firsts_R)
        step = AttentionStep(
            *(each.data_ptr() for each in tensors),
            *(each.stride(0) for each in (query, key, value)),
            *(rows, heads, key.shape[1], width, cos.shape[-1], keys_RGND.shape[2]),
            *(now, window or 0, torch.get_num_threads()),
            *(scale, cap or 0.0),
        )
        self._function(ctypes.byref(step))
        return output


def _with_whole_rows(heads: Tensor) -> Tensor:
    """The same with each row's heads one after the other in memory."""
    return heads if heads.stride()[1:] == (heads.shape[2], 1) else heads.contiguous()


def attended_by_torch(
    query_RQD: Tensor, keys_RGND: Tensor, values_RGND: Tensor, firsts: Sequence[int], scale: float
) -> Tensor:
    """The same of turned queries, one row after the other: what the kernel is tried against."""
    rows = []
    for row, first in enumerate(firsts):
        keys, values = (each[row, :, first:] for each in (keys_RGND, values_RGND))
        scores = query_RQD[row].view(len(keys), -1, keys.shape[-1]) @ keys.mT * scale
        rows.append((scores.softmax(-1) @ values).flatten())
    return torch.stack(rows)
