"""How far the directions of two updates coincide (paper §7.2 and Appendix G; Figures 3, 4, 6, 7 and 8).

    φ(U, V, i, j) = ‖Uᵢᵀ·Vⱼ‖²_F / min(i, j)        Uᵢ: the first i singular vectors, as columns

φ is 1 where one subspace holds the other and 0 where they are orthogonal. It is Σσ²/p with the p = min(i, j) singular
values σ of Uᵢᵀ·Vⱼ, so 1 − d²/p with the projection metric d = √(p − Σσ²): the paper prints this identity without the
p. Two random subspaces of R^k have φ ≈ max(i, j)/k.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from loralab.analysis.adapters.base_weight import base_matrix
from loralab.analysis.adapters.deltas import Delta, deltas, paired_deltas
from loralab.core.thin import numerical_rank
from loralab.errors import SpecError
from loralab.formats.stored import StoredAdapter

Side = Literal["right", "left"]
Of = Literal["factors", "update"]
SIDES: tuple[Side, ...] = ("right", "left")
SHARED = 0.5
"""Above this φ(k, k) two subspaces of k dimensions are said to be shared, as in the paper's reading of Figure 3."""


@dataclass(frozen=True)
class Overlap:
    """φ for all i and j of one module, and the same for random factors of that shape."""

    name: str
    side: Side
    phi_IJ: Tensor
    """[i, j], counted from 1; float64."""
    random_IJ: Tensor

    @property
    def shared_dimensions(self) -> int:
        """The largest k for which φ(k, k) is above one half."""
        above = (self.phi_IJ.diagonal() > SHARED).nonzero()
        return int(above.max()) + 1 if len(above) else 0

    @property
    def top(self) -> float:
        """φ(1, 1): how far the strongest directions agree."""
        return float(self.phi_IJ[0, 0])


def overlaps(
    one: StoredAdapter, other: StoredAdapter, *, of: Of = "factors", modules: str | None = None, seed: int = 0
) -> Iterator[Overlap]:
    """Both sides of every module that two adapters share, one module after another.

    `factors` takes the right singular vectors of A and the left ones of B, as the paper does; `update` those of ΔW.
    Raises SpecError for adapters that cannot be compared, and for an update that is zero: it has no directions.
    """
    generator = torch.Generator().manual_seed(seed)
    for mine, theirs in paired_deltas(one, other, modules):
        bases = [_bases(each, of, source) for each, source in ((mine, one), (theirs, other))]
        for side in SIDES:
            U, V = bases[0][side], bases[1][side]
            yield Overlap(mine.name, side, similarity(U, V), similarity(_like(U, generator), _like(V, generator)))


def overlaps_with_base(
    adapter: StoredAdapter, model: nn.Module, *, of: Of = "factors", modules: str | None = None, seed: int = 0
) -> Iterator[Overlap]:
    """The same between each base weight W, all of its directions, and its update (Figure 8).

    Raises SpecError for modules that the model does not have, and for an update that is zero.
    """
    generator = torch.Generator().manual_seed(seed)
    for delta in deltas(adapter, modules):
        W_OI = base_matrix(model, delta.part_of or delta.name, delta.shape, delta.rows)
        U, _, Vh = torch.linalg.svd(W_OI, full_matrices=False)
        of_update = _bases(delta, of, adapter)
        of_base: dict[Side, Tensor] = {"right": Vh.T, "left": U}
        for side, basis in of_base.items():
            V = of_update[side]
            yield Overlap(delta.name, side, similarity(basis, V), similarity(basis, _like(V, generator)))


def similarity(U_KI: Tensor, V_KJ: Tensor) -> Tensor:
    """φ [I, J] of all leading columns of two orthonormal bases of subspaces of R^K."""
    squared_IJ = (U_KI.T @ V_KJ).square().cumsum(0).cumsum(1)
    i, j = (torch.arange(1, count + 1, dtype=squared_IJ.dtype) for count in squared_IJ.shape)
    phi_IJ: Tensor = squared_IJ / torch.minimum(i[:, None], j[None, :])
    return phi_IJ


def right_vectors(matrix_OI: Tensor) -> Tensor:
    """The right singular vectors [I, K] of a matrix, those of its numerical rank K."""
    _, sigma, Vh = torch.linalg.svd(matrix_OI, full_matrices=False)
    vectors_IK: Tensor = Vh[: numerical_rank(sigma, sum(matrix_OI.shape))].T
    return vectors_IK


def _bases(delta: Delta, of: Of, source: StoredAdapter) -> dict[Side, Tensor]:
    if of == "update":
        U, _, V = delta.svd()
        bases: dict[Side, Tensor] = {"right": V, "left": U}
    else:
        bases = {"right": right_vectors(delta.A_RI), "left": right_vectors(delta.B_OR.T)}
    empty = [side for side, basis in bases.items() if basis.shape[1] == 0]
    if empty:
        raise SpecError(
            f"{delta.name} in {source.source} has rank zero ({' and '.join(empty)} side): it learned no direction to "
            "compare; see loralab inspect for dead tensors, or leave the module out with --modules"
        )
    return bases


def _like(basis_KI: Tensor, generator: torch.Generator) -> Tensor:
    """The singular vectors of a Gaussian matrix: a random subspace of the same dimensions."""
    gaussian = torch.randn(basis_KI.shape, generator=generator, dtype=basis_KI.dtype)
    basis: Tensor = torch.linalg.qr(gaussian)[0]
    return basis
