"""An update B·A rewritten by its singular value decomposition, so that cutting it short cuts it best.

    B·A = U·diag(σ)·Vᵀ,    B' = U·√σ,    A' = √σ·Vᵀ        (σ falling)

The first r columns of B' and rows of A' are the best update of rank r (Eckart and Young), and what they miss is
‖B·A − B'ᵣ·A'ᵣ‖²_F = Σ_{k>r} σ_k². Knows nothing of modules and files.
Shapes: R rank of the factors, I inputs, O outputs, K = min(R, I, O); leading dimensions are groups or experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Balanced:
    """Factors in float64 whose rows and columns are singular directions, the strongest first."""

    A_KI: Tensor
    B_OK: Tensor
    energy_K: Tensor
    """σ², summed over groups or experts: what each further rank adds to ‖B·A‖²_F."""

    def cut(self, rank: int) -> tuple[Tensor, Tensor]:
        """The best A […, rank, I] and B […, O, rank]; all K where there are fewer."""
        return self.A_KI[..., :rank, :], self.B_OK[..., :rank]


def balance(A_RI: Tensor, B_OR: Tensor) -> Balanced:
    """Rewrite B·A from QR of its thin factors and the SVD of an R×R matrix; B·A itself is never formed.

    Inputs that A never reads and outputs that B never writes stay exactly zero.
    """
    A, B = A_RI.double(), B_OR.double()
    Q_A, R_A = torch.linalg.qr(A.mT)
    Q_B, R_B = torch.linalg.qr(B)
    U, sigma_K, Vh = torch.linalg.svd(R_B @ R_A.mT, full_matrices=False)
    root_K = sigma_K.sqrt()
    A_KI = (root_K[..., :, None] * (Vh @ Q_A.mT)).masked_fill(~A.any(-2, keepdim=True), 0.0)
    B_OK = ((Q_B @ U) * root_K[..., None, :]).masked_fill(~B.any(-1, keepdim=True), 0.0)
    return Balanced(A_KI, B_OK, sigma_K.square().reshape(-1, sigma_K.shape[-1]).sum(0))


def rank_for_energy(energy_K: Tensor, share: float) -> int:
    """The smallest rank from 1 that keeps this share of ‖B·A‖²_F; 1 for an update that is zero.

    What is below the rounding of float32, in which factors are stored, counts as nothing.
    """
    whole = float(energy_K.sum())
    rounding = len(energy_K) * torch.finfo(torch.float32).eps ** 2
    missing_K = whole - energy_K.cumsum(0)
    return min(1 + int((missing_K > (1 - share + rounding) * whole).sum()), len(energy_K))


def pooled_ranks(energies: Sequence[Tensor], share: float) -> list[int]:
    """The rank of each update when all their σ² are put into one pool and the largest kept until they hold `share`.

    No update gets less than rank 1.
    """
    pool = torch.cat(list(energies)).sort(descending=True).values
    kept = rank_for_energy(pool, share)
    threshold = pool[kept - 1]
    return [max(1, int((energy_K >= threshold).sum())) for energy_K in energies]


def distance(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """‖B·A − B'·A'‖_F of two factor pairs (A, B), in float64, from the factors alone."""
    (A, B), (A_other, B_other) = ((a.double(), b.double()) for a, b in (one, other))
    R_A = torch.linalg.qr(torch.cat([A, A_other], -2).mT, mode="r").R
    R_B = torch.linalg.qr(torch.cat([B, -B_other], -1), mode="r").R
    return float(torch.linalg.vector_norm(R_B @ R_A.mT))


def norm(A_RI: Tensor, B_OR: Tensor) -> float:
    """‖B·A‖_F, in float64."""
    return distance((A_RI, B_OR), (A_RI[..., :0, :], B_OR[..., :0]))
