"""PiSSA (arXiv 2404.02948): A and B start as the principal part of W, so that they train what matters most in it.

    W = U·Σ·Vᵀ,    B₀ = U_r·√(Σ_r/s),    A₀ = √(Σ_r/s)·V_rᵀ,    h = (W − s·B₀·A₀)·x + s·B·A·x

The residual W − s·B₀·A₀ is never stored: the layer keeps W and computes the same function as an update of it,

    ΔW = s·(B·A − B₀·A₀) = s·[B, −B₀]·[A; A₀]

which is a plain LoRA of rank 2r. Under a base in four bits it is the residual that is quantised (`principal_of`); then
the base is nf4(W − s·B₀·A₀) + s·B₀·A₀, and the update is the same. So the base stays the base bit for bit, other
adapters may stand beside it, and what is saved needs no second SVD. It costs a 2r-wide product instead of an r-wide
one.
"""

import re

import torch
from torch import Tensor, nn

from loralab.core.updates.factors import LowRankDelta, Pair, Recipe, Spot
from loralab.errors import NumericsError, TargetError
from loralab.methods.beside import heads_of
from loralab.methods.low_rank_method import LowRankMethod
from loralab.models.nf4 import Principal, QuantizedLinear, dequantise, quantise

_NAME = re.compile(r"pissa(?:(?:-|_niter_)(\d+))?")
OVERSAMPLED = 8
"""Directions beyond r that the subspace iterations carry along, so that the last of the r are found well too."""


def is_pissa(init: str) -> bool:
    """Whether an initialiser is called so: `pissa`, or `pissa-K` (PEFT: `pissa_niter_K`) for K subspace iterations."""
    return _NAME.fullmatch(init) is not None


def principal_part(W_OI: Tensor, rank: int, iterations: int | None = None) -> tuple[Tensor, Tensor]:
    """(B₀ [O, R], A₀ [R, I]) with B₀·A₀ the best rank-R approximation of W, σ shared equally between the two.

    In float32 (float64 for a float64 W), by a whole SVD or, with `iterations`, by that many subspace iterations from
    torch's global generator, which is much faster for large W and close.
    """
    W = W_OI.to(torch.promote_types(W_OI.dtype, torch.float32))
    if W.is_meta:
        return W.new_empty(len(W), rank), W.new_empty(rank, W.shape[1])
    if iterations is None:
        U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    else:
        U, S, V = torch.svd_lowrank(W, q=min(rank + OVERSAMPLED, *W.shape), niter=iterations)
        Vh = V.T
    root = S[:rank].sqrt()
    return U[:, :rank] * root, root[:, None] * Vh[:rank]


def principal_of(model: nn.Module, spec: LowRankMethod, rounds: int = 1) -> Principal:
    """For quantising the base under a PiSSA adapter of this specification: the part of each target to keep in float32.

    With more than one of the `rounds` (the paper takes 5) the part is found again from what the quantised residual
    leaves over: W − nf4(W − B·A), in turn.
    """
    targets = {target.path for target in spec.find(model, heads_of(model, spec.modules_to_save))}

    def principal(path: str, W_OI: Tensor) -> Pair | None:
        if path not in targets:
            return None
        recipe = spec.recipe(path)
        rank, iterations = recipe.rank, _iterations(recipe.init)
        B, A = principal_part(W_OI, rank, iterations)
        for _ in range(rounds - 1):
            residual = dequantise(*quantise(W_OI.float() - B @ A), tuple(W_OI.shape))
            B, A = principal_part(W_OI.float() - residual, rank, iterations)
        return B, A

    return principal


def pissa(spot: Spot) -> "PrincipalFactors":
    """The update of one matrix, started in its principal part; on a quantised layer in the part that it kept.

    TargetError for a weight that is quantised whole, NumericsError for one that is not finite.
    """
    made = PrincipalFactors(spot.recipe, spot.out_features, spot.in_features, spot.device)
    if isinstance(spot.module, QuantizedLinear):
        return made.started(*reversed(_kept_part(spot, spot.module)))
    B, A = principal_of_spot(spot, _iterations(spot.recipe.init))
    return made.started(A, B)


def principal_of_spot(spot: Spot, iterations: int | None = None) -> Pair:
    """(B₀, A₀) of a matrix in its recipe's rank. TargetError where it is not of floats, NumericsError for NaN."""
    W = spot.weight()
    if not W.is_floating_point():
        raise TargetError(f"{spot.path} holds {W.dtype} weights, and only a matrix of floats has a principal part")
    if not W.is_meta and not torch.isfinite(W).all():
        raise NumericsError(f"{spot.path} holds NaN or infinite weights, which have no principal part")
    return principal_part(W, spot.recipe.rank, iterations)


def _kept_part(spot: Spot, layer: QuantizedLinear) -> Pair:
    """(B, A) that the layer did not quantise."""
    shape = spot.out_features, spot.in_features, spot.recipe.rank
    if layer.principal is None or (*layer.principal[0].shape, layer.in_features) != (shape[0], shape[2], shape[1]):
        raise TargetError(
            f"PiSSA of rank {spot.recipe.rank} cannot start at {spot.path}: its weight is quantised whole, and the "
            "principal part has to stay in float; say so when you quantise (quantize_base with principal_of, or "
            "train --method pissa --quantize nf4), and name whole modules, not parts of a fused one"
        )
    return layer.principal


def _iterations(init: str) -> int | None:
    found = _NAME.fullmatch(init)
    return int(found[1]) if found and found[1] else None


class PrincipalFactors(LowRankDelta):
    """ΔW = s·(B·A − B₀·A₀): A [R, I] and B [O, R] train, A₀ and B₀ are where they started."""

    kind = "principal"
    stored_as_lora = True

    def __init__(self, recipe: Recipe, out_features: int, in_features: int, device: torch.device) -> None:
        super().__init__(recipe)
        A, B = (recipe.rank, in_features), (out_features, recipe.rank)
        self.lora_A = nn.Parameter(torch.empty(A, device=device))
        self.lora_B = nn.Parameter(torch.empty(B, device=device))
        self.start_A: Tensor
        self.start_B: Tensor
        self.register_buffer("start_A", torch.empty(A, device=device))
        self.register_buffer("start_B", torch.empty(B, device=device))

    def started(self, A_RI: Tensor, B_OR: Tensor) -> "PrincipalFactors":
        """From a principal part B·A, divided by the scale; itself."""
        share = abs(self.recipe.scale) ** -0.5
        with torch.no_grad():
            for tensor, value in ((self.lora_A, A_RI * share), (self.lora_B, B_OR * share / _sign(self.recipe.scale))):
                tensor.copy_(value)
            self.start_A.copy_(self.lora_A)
            self.start_B.copy_(self.lora_B)
        return self

    def pair(self) -> Pair:
        s = self.recipe.scale
        return torch.cat([self.lora_A, self.start_A]), torch.cat([self.lora_B * s, self.start_B * -s], dim=1)


def _sign(scale: float) -> float:
    return -1.0 if scale < 0 else 1.0
