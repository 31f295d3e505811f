"""What the newest token of every row attends to, in one call a layer: see `attention.cpp`.

By torch's products it is a dozen calls a layer over a padded batch, and a row's sums depend on how far it is padded;
here they go over the row's own tokens.

Shapes: R rows, L lines of the cache, Q query heads, G key heads, D head width, U turned part of D, N columns of the
cache, P of them at most on a path.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loralab.serving.engine.native.numbers import refuse_other_numbers

_POINTERS = (
    *("query", "key", "value", "cosine", "sine", "keys", "values", "output"),
    *("firsts", "lines", "paths", "counts"),
)
_COUNTS = (
    *("query_stride", "key_stride", "value_stride", "rows", "heads", "groups", "width", "turned", "columns"),
    *("window", "threads", "now", "path_stride"),
)


class AttentionStep(ctypes.Structure):
    """`Step` of attention.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _COUNTS),
        ("scale", ctypes.c_float),
        ("cap", ctypes.c_float),
    )


@dataclass(frozen=True)
class Runs:
    """Row r is line r of the cache; its tokens are in the columns from `firsts_R[r]` (int32) to `now`, the newest's."""

    firsts_R: Tensor
    now: int

    def fields(self) -> dict[str, int]:
        """Of `AttentionStep`."""
        return {"firsts": self.firsts_R.data_ptr(), "now": self.now}


@dataclass(frozen=True)
class Paths:
    """Row r is in line `lines_R[r]`; its tokens are in the first `counts_R[r]` columns of `columns_RP[r]`, in their
    order, the newest last (all int32)."""

    lines_R: Tensor
    columns_RP: Tensor
    counts_R: Tensor

    def fields(self) -> dict[str, int]:
        """Of `AttentionStep`."""
        pointers = {"lines": self.lines_R, "paths": self.columns_RP, "counts": self.counts_R}
        return {name: each.data_ptr() for name, each in pointers.items()} | {"path_stride": self.columns_RP.stride(0)}


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
        keys_LGND: Tensor,
        values_LGND: Tensor,
        tokens: Runs | Paths,
        window: int | None,
        scale: float,
        cap: float | None,
    ) -> Tensor:
        """[R, Q·D]; the newest keys and values have gone into the cache, each to where its row has its newest token.

        cos and sin [R, 1, U], the first half of sin negated.
        """
        refuse_other_numbers(self._dtype, query_RQD, key_RGD, value_RGD, cos, sin, keys_LGND, values_LGND)
        query, key, value = (_with_whole_rows(each) for each in (query_RQD, key_RGD, value_RGD))
        rows, heads, width = query.shape
        output = query.new_empty(rows, heads * width)
        tensors = (query, key, value, cos, sin, keys_LGND, values_LGND, output)
        step = AttentionStep(*(each.data_ptr() for each in tensors), **tokens.fields(), scale=scale, cap=cap or 0.0)
        step.query_stride, step.key_stride, step.value_stride = (each.stride(0) for each in (query, key, value))
        step.rows, step.heads, step.groups, step.width = rows, heads, key.shape[1], width
        step.turned, step.columns, step.window = cos.shape[-1], keys_LGND.shape[2], window or 0
        step.threads = torch.get_num_threads()
        self._function(ctypes.byref(step))
        return output


def _with_whole_rows(heads: Tensor) -> Tensor:
    """The same with each row's heads one after the other in memory."""
    return heads if heads.stride()[1:] == (heads.shape[2], 1) else heads.contiguous()


def attended_by_torch(
    query_RQD: Tensor, keys_LGND: Tensor, values_LGND: Tensor, tokens: Sequence[tuple[int, Sequence[int]]], scale: float
) -> Tensor:
    """The same of turned queries, one row after the other: what the kernel is tried against.

    `tokens` has the line and the columns of each row.
    """
    rows = []
    for query_QD, (line, columns) in zip(query_RQD, tokens, strict=True):
        keys, values = (each[line][:, [*columns]] for each in (keys_LGND, values_LGND))
        scores = query_QD.view(len(keys), -1, keys.shape[-1]) @ keys.mT * scale
        rows.append((scores.softmax(-1) @ values).flatten())
    return torch.stack(rows)
