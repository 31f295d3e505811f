"""The equations, as pure functions of tensors.

            x ─────────── W (frozen) ───────────┐
            │                                   +── h = W·x + s·B·A·x,   s = α/r     (paper §4.1, eq. 3)
            └── A (r×in) ── B (out×r) ── ·s ────┘

Shapes carry suffixes: N rows of input (all leading dimensions together), I inputs, O outputs, R rank,
K adapters, S sequences in a batch, T positions of one sequence. Weights have torch's layout, [O, I].
By the convention of this package `B` comes with the scale folded in wherever a function takes no `scale`.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def scaling(alpha: float, rank: int, rank_stabilized: bool = False) -> float:
    """s = α/r (paper §4.1), or α/√r when rank-stabilised (rsLoRA, arXiv 2312.03732)."""
    return alpha / (math.sqrt(rank) if rank_stabilized else rank)


def delta(A_RI: Tensor, B_OR: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """ΔW = B·A with shape [O, I] (leading dimensions are a batch), multiplied in `dtype`."""
    return B_OR.to(dtype) @ A_RI.to(dtype)


def low_rank(x_NI: Tensor, A_RI: Tensor, B_OR: Tensor) -> Tensor:
    """x·Aᵀ·Bᵀ: the update's own output, by way of the r-wide product and never of ΔW."""
    return F.linear(F.linear(x_NI, A_RI.to(x_NI.dtype)), B_OR.to(x_NI.dtype))


def low_rank_rows(x_STI: Tensor, A_KRI: Tensor, B_KOR: Tensor, adapter_S: Tensor) -> Tensor:
    """x·Aᵀ·Bᵀ with one adapter per sequence: adapter_S[s] says which of the K factor pairs sequence s uses."""
    xa_STR = torch.bmm(x_STI, A_KRI.to(x_STI.dtype)[adapter_S].transpose(1, 2))
    return torch.bmm(xa_STR, B_KOR.to(x_STI.dtype)[adapter_S].transpose(1, 2))


def adapted_linear(x: Tensor, W_OI: Tensor, bias_O: Tensor | None, A_RI: Tensor, B_OR: Tensor) -> Tensor:
    """h = x·Wᵀ + bias + x·Aᵀ·Bᵀ for x of shape [..., I], with W frozen; gradients for x, bias, A and B.

    Keeps x (no copy of it) and the r-wide x·Aᵀ for the backward pass, nothing else of the input's length; where A is
    frozen (LoRA-FA, arXiv 2308.03303) not even x.
    """
    h_NO: Tensor = _AdaptedLinear.apply(as_rows(x), W_OI, bias_O, A_RI, B_OR)  # type: ignore[no-untyped-call]
    return like_rows_of(x, h_NO)


def as_rows(x: Tensor) -> Tensor:
    """[..., I] → [N, I]."""
    return x.reshape(-1, x.shape[-1])


def like_rows_of(x: Tensor, h_NO: Tensor) -> Tensor:
    """[N, O] → [..., O] for x of shape [..., I].

    Outside of the graph's own node: what is a view when it leaves one cannot be changed in place, as Hubert does.
    """
    return h_NO.view(*x.shape[:-1], h_NO.shape[-1])


class _AdaptedLinear(torch.autograd.Function):
    """One node in the graph for the frozen product and its low-rank update.

    Forward:   h  = x·Wᵀ + bias,  u = x·Aᵀ,  h += u·Bᵀ
    Backward:  v  = g·B,  dx = g·W + v·A,  dA = vᵀ·x,  dB = gᵀ·u,  dbias = Σ g
    """

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, W_OI: Tensor, bias_O: Tensor | None, A_RI: Tensor, B_OR: Tensor) -> Tensor:
        A, B = A_RI.to(x_NI.dtype), B_OR.to(x_NI.dtype)
        u_NR = x_NI @ A.T
        h_NO = F.linear(x_NI, W_OI, bias_O).addmm_(u_NR, B.T)
        ctx.save_for_backward(x_NI if ctx.needs_input_grad[3] else None, u_NR, W_OI, A, B)
        ctx.dtypes = (A_RI.dtype, B_OR.dtype, None if bias_O is None else bias_O.dtype)
        return h_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, u_NR, W_OI, A, B = ctx.saved_tensors
        need_x, _, need_bias, need_A, need_B = ctx.needs_input_grad
        A_dtype, B_dtype, bias_dtype = ctx.dtypes
        v_NR = g_NO @ B if need_x or need_A else None
        dx = (g_NO @ W_OI).addmm_(v_NR, A) if need_x else None
        dA = (v_NR.T @ x_NI).to(A_dtype) if need_A and v_NR is not None else None
        dB = (g_NO.T @ u_NR).to(B_dtype) if need_B else None
        dbias = g_NO.sum(0).to(bias_dtype) if need_bias else None
        return dx, None, dbias, dA, dB


SMALLEST_NORM = 1e-12
"""In place of the norm of an output whose weights are all zero (a pruned one), which stays zero all the same."""


def row_norms(W_OI: Tensor, A_RI: Tensor, B_OR: Tensor, squares_O: Tensor | None = None) -> Tensor:
    """‖W + B·A‖ of every row, [O], in float32 or wider and without forming B·A; `squares_O` are ‖W_o‖² if known.

    ‖w + b·A‖² = ‖w‖² + 2·b·(A·w) + b·(A·Aᵀ)·bᵀ, so it costs R/N of the layer's own product over N rows of input.
    """
    dtype = torch.promote_types(W_OI.dtype, torch.float32)
    W, A, B = W_OI.to(dtype), A_RI.to(dtype), B_OR.to(dtype)
    squares = W.square().sum(1) if squares_O is None else squares_O
    crossed = (B * (W @ A.T)).sum(1)
    own = (B * (B @ (A @ A.T))).sum(1)
    return (squares + 2 * crossed + own).clamp(min=SMALLEST_NORM**2).sqrt()


def scaled_linear(x: Tensor, W_OI: Tensor, bias_O: Tensor | None, A_RI: Tensor, B_OR: Tensor, c_O: Tensor) -> Tensor:
    """h = c ⊙ (x·Wᵀ + x·Aᵀ·Bᵀ) + bias for x of shape [..., I], with W frozen; gradients for all others.

    With c = 1 and B = 0 it is the base's own product, bit for bit. Keeps one product [N, O] more than
    `adapted_linear`: the gradient of c needs it.
    """
    h_NO: Tensor = _ScaledLinear.apply(as_rows(x), W_OI, bias_O, A_RI, B_OR, c_O)  # type: ignore[no-untyped-call]
    return like_rows_of(x, h_NO)


class _ScaledLinear(torch.autograd.Function):
    """One node in the graph for a dense layer under DoRA.

    Forward:   u = x·Aᵀ,  t = x·Wᵀ + bias + u·Bᵀ,  h = c ⊙ t + (1 − c) ⊙ bias
    Backward:  k = c ⊙ g,  v = k·B,  dx = k·W + v·A,  dA = vᵀ·x,  dB = kᵀ·u,  dc = Σ g ⊙ (t − bias),  dbias = Σ g
    """

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, W_OI: Tensor, bias_O: Tensor | None, A_RI: Tensor, B_OR: Tensor, c_O: Tensor
    ) -> Tensor:
        A, B = A_RI.to(x_NI.dtype), B_OR.to(x_NI.dtype)
        u_NR = x_NI @ A.T
        t_NO = F.linear(x_NI, W_OI, bias_O).addmm_(u_NR, B.T)
        h_NO = (t_NO * c_O).to(x_NI.dtype)
        if bias_O is not None:
            h_NO += ((1 - c_O) * bias_O).to(x_NI.dtype)
        ctx.save_for_backward(x_NI if ctx.needs_input_grad[3] else None, u_NR, t_NO, W_OI, bias_O, A, B, c_O)
        ctx.dtypes = (A_RI.dtype, B_OR.dtype, None if bias_O is None else bias_O.dtype)
        return h_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, u_NR, t_NO, W_OI, bias_O, A, B, c_O = ctx.saved_tensors
        need_x, _, need_bias, need_A, need_B, need_c = ctx.needs_input_grad
        A_dtype, B_dtype, bias_dtype = ctx.dtypes
        k_NO = (g_NO * c_O).to(g_NO.dtype)
        v_NR = k_NO @ B if need_x or need_A else None
        dx = (k_NO @ W_OI).addmm_(v_NR, A) if need_x else None
        dA = (v_NR.T @ x_NI).to(A_dtype) if need_A and v_NR is not None else None
        dB = (k_NO.T @ u_NR).to(B_dtype) if need_B else None
        summed = g_NO.sum(0, dtype=c_O.dtype) if bias_O is not None else None
        dc = (g_NO * t_NO).sum(0, dtype=c_O.dtype) if need_c else None
        if dc is not None and summed is not None:
            dc -= bias_O * summed
        dbias = summed.to(bias_dtype) if need_bias and summed is not None else None
        return dx, None, dbias, dA, dB, dc
