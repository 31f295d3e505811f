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
    """The same with one adapter per sequence: adapter_S[s] says which of the K factor pairs sequence s uses."""
    xa_STR = torch.bmm(x_STI, A_KRI.to(x_STI.dtype)[adapter_S].transpose(1, 2))
    return torch.bmm(xa_STR, B_KOR.to(x_STI.dtype)[adapter_S].transpose(1, 2))


def truncated(A_RI: Tensor, B_OR: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The best A [rank, I] and B [O, rank] for B·A, and ‖B·A − B'·A'‖_F / ‖B·A‖_F (leading dimensions are a batch).

    By SVD of the R×R core between the QR factors of Aᵀ and B, in float64: ΔW itself is never formed.
    """
    Q_A, R_A = torch.linalg.qr(A_RI.mT.double())
    Q_B, R_B = torch.linalg.qr(B_OR.double())
    U, S, Vh = torch.linalg.svd(R_B @ R_A.mT, full_matrices=False)
    root = S[..., :rank].sqrt()
    A = root[..., :, None] * (Vh[..., :rank, :] @ Q_A.mT)
    B = (Q_B @ U[..., :rank]) * root[..., None, :]
    lost, whole = S[..., rank:].square().sum(), S.square().sum()
    error = float((lost / whole).sqrt()) if whole > 0 else 0.0
    return A.to(A_RI.dtype), B.to(B_OR.dtype), error


def adapted_linear(x: Tensor, W_OI: Tensor, bias_O: Tensor | None, A_RI: Tensor, B_OR: Tensor) -> Tensor:
    """h = x·Wᵀ + bias + x·Aᵀ·Bᵀ for x of shape [..., I], with W frozen; gradients for x, bias, A and B.

    Keeps x (no copy of it) and the r-wide x·Aᵀ for the backward pass, nothing else of the input's length.
    """
    h: Tensor = _AdaptedLinear.apply(x, W_OI, bias_O, A_RI, B_OR)  # type: ignore[no-untyped-call]
    return h


class _AdaptedLinear(torch.autograd.Function):
    """One node in the graph for the frozen product and its low-rank update.

    Forward:   h  = x·Wᵀ + bias,  u = x·Aᵀ,  h += u·Bᵀ
    Backward:  v  = g·B,  dx = g·W + v·A,  dA = vᵀ·x,  dB = gᵀ·u,  dbias = Σ g
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, W_OI: Tensor, bias_O: Tensor | None, A_RI: Tensor, B_OR: Tensor) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        A, B = A_RI.to(x.dtype), B_OR.to(x.dtype)
        u_NR = x_NI @ A.T
        h_NO = F.linear(x_NI, W_OI, bias_O).addmm_(u_NR, B.T)
        ctx.save_for_backward(x_NI, u_NR, W_OI, A, B)
        ctx.dtypes = (A_RI.dtype, B_OR.dtype, None if bias_O is None else bias_O.dtype)
        return h_NO.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, u_NR, W_OI, A, B = ctx.saved_tensors
        need_x, _, need_bias, need_A, need_B = ctx.needs_input_grad
        A_dtype, B_dtype, bias_dtype = ctx.dtypes
        g_NO = grad.reshape(-1, grad.shape[-1])
        v_NR = g_NO @ B if need_x or need_A else None
        dx = (g_NO @ W_OI).addmm_(v_NR, A).view(*grad.shape[:-1], -1) if need_x else None
        dA = (v_NR.T @ x_NI).to(A_dtype) if need_A and v_NR is not None else None
        dB = (g_NO.T @ u_NR).to(B_dtype) if need_B else None
        dbias = g_NO.sum(0).to(bias_dtype) if need_bias else None
        return dx, None, dbias, dA, dB
