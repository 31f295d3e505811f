"""An update B·A from its thin factors alone: its norm, its singular directions, the best update of a lower rank.

    B·A = U·diag(σ)·Vᵀ,    B' = U·√σ,    A' = √σ·Vᵀ        (σ falling)

The first r columns of B' and rows of A' are the best update of rank r (Eckart and Young), and what they miss is
‖B·A − B'ᵣ·A'ᵣ‖²_F = Σ_{k>r} σ_k². Everything comes from QR of the two factors and the R×R matrix between them, in
float64; B·A itself is never formed. Knows nothing of modules and files.

Shapes: R rank of the factors, I inputs, O outputs, K = min(R, I, O); leading dimensions are groups or experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Thin:
    """B·A in float64."""

    A_RI: Tensor
    B_OR: Tensor

    @staticmethod
    def of(A_RI: Tensor, B_OR: Tensor, scale: float = 1.0) -> "Thin":
        """scale·B·A of factors in any precision."""
        return Thin(A_RI.double(), scale * B_OR.double())

    def norm(self) -> float:
        """‖B·A‖_F."""
        R_A, R_B = (torch.linalg.qr(each, mode="r").R for each in (self.A_RI.mT, self.B_OR))
        return float(torch.linalg.vector_norm(R_B @ R_A.mT))

    def distance(self, other: "Thin") -> float:
        """‖B·A − B'·A'‖_F, as accurate as the factors are where the two nearly agree."""
        return Thin(torch.cat([self.A_RI, other.A_RI], -2), torch.cat([self.B_OR, -other.B_OR], -1)).norm()

    @cached_property
    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """(U […, O, K], σ […, K] falling, V […, I, K])."""
        Q_A, R_A = torch.linalg.qr(self.A_RI.mT)
        Q_B, R_B = torch.linalg.qr(self.B_OR)
        U, sigma_K, Vh = torch.linalg.svd(R_B @ R_A.mT, full_matrices=False)
        return Q_B @ U, sigma_K, Q_A @ Vh.mT

    @property
    def energy_K(self) -> Tensor:
        """σ², summed over groups or experts: what each further rank adds to ‖B·A‖²_F."""
        return _energy(self.svd[1])

    def cut(self, rank: int) -> Pair:
        """The best A […, rank, I] and B […, O, rank], balanced; all K where there are fewer.

        Inputs that A never reads and outputs that B never writes stay exactly zero.
        """
        A, B = _balanced(*self.svd, rank)
        return (
            A.masked_fill(~self.A_RI.any(-2, keepdim=True), 0.0),
            B.masked_fill(~self.B_OR.any(-1, keepdim=True), 0.0),
        )


def truncated(A_RI: Tensor, B_OR: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The best A and B of a rank for B·A in their own precision, and ‖B·A − B'·A'‖_F / ‖B·A‖_F."""
    whole = Thin.of(A_RI, B_OR)
    A, B = whole.cut(rank)
    return A.to(A_RI.dtype), B.to(B_OR.dtype), _share_lost(whole.energy_K, rank)


def low_rank_of(D_OI: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The best A and B of a rank for a matrix that has no thin factors, and ‖D − B·A‖_F / ‖D‖_F."""
    U, sigma_K, Vh = torch.linalg.svd(D_OI.double(), full_matrices=False)
    A, B = _balanced(U, sigma_K, Vh.mT, rank)
    return A.to(D_OI.dtype), B.to(D_OI.dtype), _share_lost(_energy(sigma_K), rank)


def _balanced(U_OK: Tensor, sigma_K: Tensor, V_IK: Tensor, rank: int) -> Pair:
    """A and B with √σ each."""
    root = sigma_K[..., :rank].sqrt()
    return root[..., :, None] * V_IK[..., :rank].mT, U_OK[..., :rank] * root[..., None, :]


def _energy(sigma_K: Tensor) -> Tensor:
    return sigma_K.square().reshape(-1, sigma_K.shape[-1]).sum(0)


def _share_lost(energy_K: Tensor, rank: int) -> float:
    """‖what is beyond the rank‖ / ‖the whole‖."""
    whole = energy_K.sum()
    return float((energy_K[rank:].sum() / whole).sqrt()) if whole > 0 else 0.0


# -- how much rank is enough ----------------------------------------------------------------------------------------


def numerical_rank(sigma_K: Tensor, size: int) -> int:
    """How many of the falling singular values are not rounding: above size · ε · the first, with the ε of float32, in
    which factors are trained and stored.
    """
    return int((sigma_K > size * torch.finfo(torch.float32).eps * sigma_K[:1]).sum())


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
