"""Projections of a matrix into R dimensions, for optimizers whose state lives there: rows that were chosen, or a basis.

    g = Pᵀ·G,   u = optimizer(g),   W ← W + P·u                 (Grass, arXiv 2406.17660; GaLore, arXiv 2403.03507)

`ChosenRows`   Pᵀ = diag(ρ)·S with one 1 in every row of S: projecting is indexing, and only R rows of W ever change.
`Basis`        P has orthonormal columns.

A dense product whose weight is trained so computes the narrow gradient at once, and never the full one:

    h = x·Wᵀ + bias,   ∂W = gᵀ·x [O, I]
    outputs projected (P [O, R]):   Pᵀ·∂W   = (g·P)ᵀ·x   [R, I]
    inputs projected (P [I, R]):    (∂W·P)ᵀ = (x·P)ᵀ·g   [R, O], for which only x·P is kept

It goes to a tensor of its own, `A_RN`, which takes no part in the product: the A of a LoRA with B = P frozen, at
A = 0. W comes in the precision it trains in and is cast on the way, forward and backward, so that no cast copy is kept.

Shapes: M the projected side, N the other one, R rank, X rows of an activation; of a dense product also I inputs,
O outputs and N_ rows of input (all leading dimensions together).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from loralab.core.math import as_rows, like_rows_of


class Projection(Protocol):
    """P [M, R], known by what it does."""

    def narrow(self, t_XM: Tensor) -> Tensor:
        """t·P [X, R], in the dtype of t: on this side of an activation the weight's gradient is narrow as well."""

    def reduce(self, G_MN: Tensor) -> Tensor:
        """Pᵀ·G [R, N]."""

    def expand_(self, W_MN: Tensor, u_RN: Tensor) -> None:
        """W ← W + P·u, in place."""

    def decay_(self, W_MN: Tensor, factor: float) -> None:
        """Multiply what decoupled weight decay is for: by this factor, in place."""

    def tensors(self) -> dict[str, Tensor]:
        """What it is made of, for a checkpoint; `projection_of` is the inverse."""


@dataclass(frozen=True)
class ChosenRows:
    """P of chosen rows: `index_R` may name a row more than once, `factor_R` is ρ."""

    index_R: Tensor
    factor_R: Tensor

    def narrow(self, t_XM: Tensor) -> Tensor:
        return t_XM.index_select(1, self.index_R).mul_(self.factor_R.to(t_XM.dtype))

    def reduce(self, G_MN: Tensor) -> Tensor:
        return G_MN.index_select(0, self.index_R).mul_(self.factor_R[:, None].to(G_MN.dtype))

    def expand_(self, W_MN: Tensor, u_RN: Tensor) -> None:
        W_MN.index_add_(0, self.index_R, u_RN * self.factor_R[:, None].to(u_RN.dtype))

    def decay_(self, W_MN: Tensor, factor: float) -> None:
        """Of the chosen rows alone, each once: the others stay bit for bit."""
        rows = torch.unique(self.index_R)
        W_MN.index_copy_(0, rows, W_MN.index_select(0, rows).mul_(factor))

    def tensors(self) -> dict[str, Tensor]:
        return {"index": self.index_R, "factor": self.factor_R}

    def places_in(self, before: "ChosenRows") -> tuple[Tensor, Tensor]:
        """For each row: its place among those chosen before, and by how much its gradient is scaled otherwise now (0
        for a row that is new)."""
        same_RR = self.index_R[:, None] == before.index_R
        place_R = same_RR.int().argmax(1)
        return place_R, same_RR.any(1) * self.factor_R / before.factor_R[place_R]


@dataclass(frozen=True)
class Basis:
    """P with orthonormal columns."""

    P_MR: Tensor

    def narrow(self, t_XM: Tensor) -> Tensor:
        return t_XM @ self.P_MR.to(t_XM.dtype)

    def reduce(self, G_MN: Tensor) -> Tensor:
        return self.P_MR.to(G_MN.dtype).T @ G_MN

    def expand_(self, W_MN: Tensor, u_RN: Tensor) -> None:
        W_MN.addmm_(self.P_MR.to(u_RN.dtype), u_RN)

    def decay_(self, W_MN: Tensor, factor: float) -> None:
        """Of the whole matrix, as GaLore does."""
        W_MN.mul_(factor)

    def tensors(self) -> dict[str, Tensor]:
        return {"basis": self.P_MR}


def projection_of(tensors: Mapping[str, Tensor]) -> Projection:
    """The projection that these tensors, among others, are of."""
    return Basis(tensors["basis"]) if "basis" in tensors else ChosenRows(tensors["index"], tensors["factor"])


def principal_basis(G_MN: Tensor, rank: int) -> Basis:
    """The left singular vectors of G's `rank` largest singular values.

    As the eigenvectors of G·Gᵀ in float64, which takes less than half the time of a float32 SVD of G. Entries of G
    that are not finite count as zero.
    """
    finite = torch.nan_to_num(G_MN.double(), nan=0.0, posinf=0.0, neginf=0.0)
    vectors_MM = torch.linalg.eigh(finite @ finite.T).eigenvectors
    return Basis(vectors_MM[:, -rank:].flip(1).to(G_MN.dtype).contiguous())


def chosen_rows(
    G_MN: Tensor, rank: int, choice: str, generator: torch.Generator, largest_factor: float | None = None
) -> ChosenRows:
    """`rank` rows of G by one of `ROW_CHOICES`, from the lengths of its rows, with no ρ above `largest_factor`. A row
    that is not finite is chosen first, whatever the rule, so that it is seen."""
    lengths_M = torch.linalg.vector_norm(G_MN, dim=1).double().cpu()
    finite = bool(torch.isfinite(lengths_M).all())
    index_R, factor_R = (ROW_CHOICES[choice] if finite else _longest)(lengths_M.nan_to_num(torch.inf), rank, generator)
    factor_R = factor_R if largest_factor is None else factor_R.clamp(max=largest_factor)
    order_R = index_R.argsort(stable=True)
    return ChosenRows(index_R[order_R].to(G_MN.device), factor_R[order_R].to(G_MN.device, G_MN.dtype))


_Chosen = tuple[Tensor, Tensor]
"""σ [R], ρ [R]."""


def _longest(lengths_M: Tensor, rank: int, generator: torch.Generator) -> _Chosen:
    return lengths_M.topk(rank).indices, lengths_M.new_ones(rank)


def _by_length(lengths_M: Tensor, rank: int, generator: torch.Generator) -> _Chosen:
    """Drawn one after another without putting back: the largest of q divided by exponential variates."""
    waiting_M = torch.empty_like(lengths_M).exponential_(generator=generator)
    return (lengths_M / waiting_M).topk(rank).indices, lengths_M.new_ones(rank)


def _uniform(lengths_M: Tensor, rank: int, generator: torch.Generator) -> _Chosen:
    index_R = torch.randperm(len(lengths_M), generator=generator)[:rank]
    return index_R, lengths_M.new_full((rank,), (len(lengths_M) / rank) ** 0.5)


def _drawn(weights_M: Tensor, rank: int, generator: torch.Generator) -> _Chosen:
    """With replacement at q ∝ weights, ρ = 1/√(r·q): the expectation of P·Pᵀ is I where no weight is zero."""
    total = weights_M.sum()
    q_M = weights_M / total if total > 0 else torch.full_like(weights_M, 1 / len(weights_M))
    index_R = torch.multinomial(q_M, rank, replacement=True, generator=generator)
    return index_R, (rank * q_M[index_R]).rsqrt()


ROW_CHOICES: dict[str, Callable[[Tensor, int, torch.Generator], _Chosen]] = {
    "top": _longest,
    "norm": _by_length,
    "norm-replace": _drawn,
    "norm2": lambda lengths_M, rank, generator: _drawn(lengths_M.square(), rank, generator),
    "uniform": _uniform,
}
"""Rule → (σ, ρ) from the lengths of G's rows."""


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
