"""How nearly a block is one affine map of what enters it, and the map ("Your Transformer is Secretly Linear", arXiv
2405.12250).

With X and Y [N, D] the residual stream before and after a block, both centred:

    linearity   1 − min_A ‖X·A − Y‖² / ‖Y‖² = tr(Yᵀ·X·(XᵀX)⁺·XᵀY) / tr(YᵀY)      a multivariate R²; A any D×D matrix
    orthogonal  ‖XᵀY‖_*² / (‖X‖²·‖Y‖²)                                         the same with A a scaled rotation
    held out    1 − ‖X'·A + c − Y'‖² / ‖Y'‖²                                    of other tokens; can be below 0

and the same with Y − X for Y: without the residual connection. Of noise the linearity is about D/(N−1), and 1 for
N ≤ D: below N = 5·D it is refused. All come from sums over tokens in float64: memory does not grow with them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from loralab.errors import SpecError

TOKENS_PER_WIDTH = 5
"""N ≥ 5·D is asked for."""


class Moments:
    """Sums over the tokens of one transition, in float64: two D×D matrices, a few vectors and numbers."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.x_D, self.y_D = (torch.zeros(width, dtype=torch.float64) for _ in range(2))
        self.xx_DD, self.xy_DD = (torch.zeros(width, width, dtype=torch.float64) for _ in range(2))
        self.yy = 0.0
        self.norm, self.change, self.cosine = 0.0, 0.0, 0.0
        """Σ‖x‖, Σ‖y − x‖ and Σ cos(x, y)."""

    def add(self, x_ND: Tensor, y_ND: Tensor) -> None:
        """Count these tokens, of any floating dtype, in."""
        x_ND, y_ND = x_ND.double().cpu(), y_ND.double().cpu()
        self.count += len(x_ND)
        self.x_D += x_ND.sum(0)
        self.y_D += y_ND.sum(0)
        self.xx_DD.addmm_(x_ND.T, x_ND)
        self.xy_DD.addmm_(x_ND.T, y_ND)
        self.yy += float(y_ND.square().sum())
        self.norm += float(x_ND.norm(dim=1).sum())
        self.change += float((y_ND - x_ND).norm(dim=1).sum())
        self.cosine += float(torch.cosine_similarity(x_ND, y_ND, dim=1).sum())

    def around(self, centre_x_D: Tensor, centre_y_D: Tensor) -> "Centred":
        """The second moments around these centres, and the tokens' own centres relative to them."""
        x_D, y_D = self.x_D / self.count - centre_x_D, self.y_D / self.count - centre_y_D
        mean_x_D, mean_y_D = self.x_D / self.count, self.y_D / self.count
        xx_DD = self.xx_DD - self.count * (torch.outer(mean_x_D, mean_x_D) - torch.outer(x_D, x_D))
        xy_DD = self.xy_DD - self.count * (torch.outer(mean_x_D, mean_y_D) - torch.outer(x_D, y_D))
        yy = self.yy - self.count * float(mean_y_D.square().sum() - y_D.square().sum())
        return Centred(xx_DD, xy_DD, yy)

    def centred(self) -> "Centred":
        """The second moments around the tokens' own centres."""
        return self.around(self.x_D / self.count, self.y_D / self.count)


@dataclass(frozen=True)
class Centred:
    """XᵀX, XᵀY and tr(YᵀY) of centred X and Y."""

    xx_DD: Tensor
    xy_DD: Tensor
    yy: float

    def of_change(self) -> "Centred":
        """The score with Y − X for Y."""
        yy = self.yy - 2 * float(self.xy_DD.trace()) + float(self.xx_DD.trace())
        return Centred(self.xx_DD, self.xy_DD - self.xx_DD, yy)


@dataclass(frozen=True)
class Linearity:
    """The scores of one block. None for a held-out score where nothing is held out; of a block that does nothing."""

    block: int
    tokens: int
    main: float
    delta: float | None
    """Without the residual connection."""
    orthogonal: float
    orthogonal_delta: float | None
    held_out: float | None
    held_out_delta: float | None
    norm: float
    """Mean ‖h‖ of what enters."""
    norm_change: float
    """Mean norm of what the block adds."""
    cosine: float
    """Mean cosine between what enters and what leaves."""


def score(block: int, fit: Moments, held_out: Moments | None, *, cutoff: bool = True) -> Linearity:
    """The scores of a block from the moments of its tokens.

    Singular values of X within float32's noise are left out; without `cutoff` none is, as in the authors' code, which
    is unstable where X has not full rank.
    """
    whole = fit.centred()
    change = whole.of_change()
    inverse_DD = pseudo_inverse(whole.xx_DD, cutoff)
    idle = change.yy <= 1e-14 * whole.yy
    outside = None if held_out is None or held_out.count < 2 else _held_out(fit, held_out, inverse_DD)
    return Linearity(
        block=block,
        tokens=fit.count,
        main=linearity(whole, inverse_DD),
        delta=None if idle else linearity(change, inverse_DD),
        orthogonal=orthogonality(whole),
        orthogonal_delta=None if idle else orthogonality(change),
        held_out=None if outside is None else outside[0],
        held_out_delta=None if outside is None or idle else outside[1],
        norm=fit.norm / fit.count,
        norm_change=fit.change / fit.count,
        cosine=fit.cosine / fit.count,
    )


def linearity(moments: Centred, inverse_DD: Tensor) -> float:
    """tr(Yᵀ·X·(XᵀX)⁺·XᵀY) / tr(YᵀY), in [0, 1]."""
    return min(max(float((moments.xy_DD * (inverse_DD @ moments.xy_DD)).sum()) / moments.yy, 0.0), 1.0)


def orthogonality(moments: Centred) -> float:
    """‖XᵀY‖_*² / (‖X‖²·‖Y‖²): 1 − min over scaled rotations; never above the linearity."""
    nuclear = float(torch.linalg.svdvals(moments.xy_DD).sum())
    return min(nuclear * nuclear / (float(moments.xx_DD.trace()) * moments.yy), 1.0)


def pseudo_inverse(xx_DD: Tensor, cutoff: bool = True) -> Tensor:
    """(XᵀX)⁺ from its eigenvalues; with `cutoff` those below D·ε of the largest count as zero (ε of float64: for X
    that is √(D·ε), about float32's noise).
    """
    values_D, vectors_DD = torch.linalg.eigh(xx_DD)
    least = float(values_D[-1]) * len(values_D) * torch.finfo(values_D.dtype).eps if cutoff else 0.0
    kept = values_D > least
    inverse: Tensor = (vectors_DD[:, kept] / values_D[kept]) @ vectors_DD[:, kept].T
    return inverse


def fit_affine(fit: Moments, ridge: float) -> tuple[Tensor, Tensor]:
    """(D [D, D], c [D]) of y ≈ x + x·D + c by ridge regression of what the blocks add; float64.

    The penalty of each input coordinate is `ridge` times its own variance: the map does not depend on the units of the
    stream, whose coordinates differ by orders of magnitude, and for a large ridge it goes to "drop the blocks".
    Raises SpecError for a ridge that is not above 0.
    """
    if not ridge > 0:
        raise SpecError(f"ridge {ridge}: it must be above 0; 1e-4 is little")
    change = fit.centred().of_change()
    variance_D = change.xx_DD.diagonal()
    scale_D = torch.where(variance_D > 0, variance_D, torch.ones_like(variance_D)).rsqrt()
    correlation_DD = scale_D[:, None] * change.xx_DD * scale_D
    correlation_DD.diagonal().add_(ridge)
    factor_DD = torch.linalg.cholesky(correlation_DD)
    map_DD = scale_D[:, None] * torch.cholesky_solve(scale_D[:, None] * change.xy_DD, factor_DD)
    return map_DD, (fit.y_D - fit.x_D - fit.x_D @ map_DD) / fit.count


def affine_r2(fit_map: tuple[Tensor, Tensor], moments: Moments) -> float:
    """The share of what the blocks add that x·D + c explains on these tokens; below 0 it is worse than a constant."""
    map_DD, bias_D = fit_map
    mean_x_D = moments.x_D / moments.count
    change = moments.centred().of_change()
    miss_D = moments.y_D / moments.count - mean_x_D - mean_x_D @ map_DD - bias_D
    residual = change.yy - 2 * float((map_DD * change.xy_DD).sum()) + float((map_DD * (change.xx_DD @ map_DD)).sum())
    return 1 - (residual + moments.count * float(miss_D.square().sum())) / change.yy


def refuse_few_tokens(count: int, width: int) -> None:
    """Raises SpecError below N = 5·D: the score would be that of the fit's freedom."""
    if count < TOKENS_PER_WIDTH * width:
        raise SpecError(
            f"{count:,} tokens for a stream {width:,} wide: N/D is {count / width:.1f} and {TOKENS_PER_WIDTH} is "
            f"needed, since noise alone scores D/(N−1); give more --chunks or a longer --data (at least "
            f"{TOKENS_PER_WIDTH * width:,} tokens)"
        )


def _held_out(fit: Moments, held_out: Moments, inverse_DD: Tensor) -> tuple[float, float]:
    """R² on other tokens, centred by the fit's means; (with, without the residual). The error is the same."""
    map_DD = inverse_DD @ fit.centred().xy_DD
    there = held_out.around(fit.x_D / fit.count, fit.y_D / fit.count)
    error = there.yy - 2 * float((map_DD * there.xy_DD).sum()) + float((map_DD * (there.xx_DD @ map_DD)).sum())
    own = held_out.centred()
    return 1 - error / own.yy, 1 - error / own.of_change().yy
