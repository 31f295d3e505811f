"""A dense product whose weight's gradient is computed in R dimensions, and never formed in full.

    h = x·Wᵀ + bias,   ∂W = gᵀ·x [O, I]
    outputs projected (P [O, R]):   Pᵀ·∂W   = (g·P)ᵀ·x   [R, I]
    inputs projected (P [I, R]):    (∂W·P)ᵀ = (x·P)ᵀ·g   [R, O], for which only x·P is kept

The narrow gradient goes to a tensor of its own, `A_RN`, which takes no part in the product: it is the A of a LoRA with
B = P frozen, at A = 0. W comes in the precision it trains in and is cast on the way, forward and backward, so that no
cast copy is kept in between.

Shapes: N_ rows of input (all leading dimensions together), I inputs, O outputs, R rank.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from loralab.core.math import as_rows, like_rows_of
from loralab.core.projection import Projection


def projected_linear(
    x: Tensor, W_OI: Tensor, bias_O: Tensor | None, A_RN: Tensor, projection: Projection, of_outputs: bool
) -> Tensor:
    """h for x [..., I]; differentiable in x, the bias and, in W's stead, `A_RN`: [R, I] or [R, O]."""
    h_NO: Tensor = _ProjectedLinear.apply(  # type: ignore[no-untyped-call]
        as_rows(x), W_OI.detach(), bias_O, A_RN, projection, of_outputs
    )
    return like_rows_of(x, h_NO)


def wide_linear(x: Tensor, W_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """h for x [..., I]; differentiable in x, W and the bias, which may be wider than x: no cast copy of W is kept."""
    h_NO: Tensor = _ProjectedLinear.apply(as_rows(x), W_OI, bias_O, None, None, True)  # type: ignore[no-untyped-call]
    return like_rows_of(x, h_NO)


class _ProjectedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_NI: Tensor,
        W_OI: Tensor,
        bias_O: Tensor | None,
        A_RN: Tensor | None,
        projection: Projection | None,
        of_outputs: bool,
    ) -> Tensor:
        h_NO = F.linear(x_NI, W_OI.to(x_NI.dtype), None if bias_O is None else bias_O.to(x_NI.dtype))
        narrow_here = projection is not None and not of_outputs
        ctx.save_for_backward(projection.narrow(x_NI) if narrow_here and projection is not None else x_NI, W_OI)
        ctx.projection, ctx.of_outputs = projection, of_outputs
        ctx.dtypes = (None if bias_O is None else bias_O.dtype, None if A_RN is None else A_RN.dtype)
        return h_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_NO: Tensor) -> tuple[Tensor | None, ...]:
        kept, W_OI = ctx.saved_tensors
        need_x, need_W, need_bias, need_A, _, _ = ctx.needs_input_grad
        bias_dtype, A_dtype = ctx.dtypes
        dx = g_NO @ W_OI.to(g_NO.dtype) if need_x else None
        dW = (g_NO.T @ kept).to(W_OI.dtype) if need_W else None
        dbias = g_NO.sum(0).to(bias_dtype) if need_bias else None
        dA = None
        if need_A:
            product = ctx.projection.narrow(g_NO).T @ kept if ctx.of_outputs else kept.T @ g_NO
            dA = product.to(A_dtype)
        return dx, dW, dbias, dA, None, None
