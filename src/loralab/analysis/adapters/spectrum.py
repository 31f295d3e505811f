"""The singular values of an adapter's updates: how many directions it used of those that its rank allows.

effective rank   exp of the entropy of σ/Σσ: R equal values give R, one value alone gives 1
energy(k)        (σ₁² + … + σ_k²)/Σσ², the share of ‖ΔW‖²_F that the best rank-k update keeps
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from loralab.analysis.adapters.deltas import deltas
from loralab.core.thin import rank_for_energy
from loralab.formats.stored import StoredAdapter


@dataclass(frozen=True)
class Spectrum:
    """Of one module's ΔW."""

    name: str
    rank: int
    """R, of the factors."""
    sigma_K: Tensor
    """Falling, of the numerical rank; empty for an update that is zero."""

    @property
    def effective_rank(self) -> float:
        """exp(−Σ p·log p) with p = σ/Σσ; 0 for an update that is zero."""
        if not len(self.sigma_K):
            return 0.0
        share = self.sigma_K / self.sigma_K.sum()
        return float(torch.exp(-torch.xlogy(share, share).sum()))

    @property
    def energy_K(self) -> Tensor:
        """The share of ‖ΔW‖²_F that each rank keeps, rising to 1."""
        squared = self.sigma_K.square().cumsum(0)
        return squared / squared[-1:]

    def rank_for(self, energy: float) -> int:
        """The smallest rank that keeps this share of ‖ΔW‖²_F."""
        return rank_for_energy(self.sigma_K.square(), energy)


def spectra(adapter: StoredAdapter, modules: str | None = None) -> Iterator[Spectrum]:
    """The spectrum of every update, one module after another."""
    for delta in deltas(adapter, modules):
        yield Spectrum(delta.name, delta.rank, delta.svd()[1])
