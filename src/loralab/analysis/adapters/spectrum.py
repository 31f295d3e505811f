"""The singular values of an adapter's updates: how many directions it used of those that its rank allows.

effective rank   exp of the entropy of σ/Σσ: R equal values give R, one value alone gives 1
energy(k)        (σ₁² + … + σ_k²)/Σσ², the share of ‖ΔW‖²_F that the best rank-k update keeps

Written: spectrum.json with every singular value, and a picture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loralab.analysis.adapters.deltas import by_kind, deltas, places
from loralab.core.thin import rank_for_energy
from loralab.files.whole import write_json
from loralab.formats.read import read_adapter
from loralab.formats.stored import StoredAdapter
from loralab.pictures.panels import Chart, draw_charts

ENERGIES = (0.9, 0.99)


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
        yield Spectrum(delta.name, len(delta.A), delta.svd()[1])


def analyse_spectrum(path: str, out: Path, *, modules: str | None, alpha: float | None) -> dict[str, Any]:
    """Look at every update, write the files, and return the summary that the command line prints."""
    adapter = read_adapter(path, alpha).demand()
    results = list(spectra(adapter, modules))
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "spectrum.json", {"adapter": path, "modules": [_whole(each) for each in results]})
    _draw(results, out / "spectrum.png", adapter.name)
    return {
        "adapter": path,
        "modules": [_brief(each) for each in results],
        "kinds": {kind: _mean(these) for kind, these in by_kind(results).items()},
        "files": [str(out / "spectrum.json"), str(out / "spectrum.png")],
    }


def _brief(spectrum: Spectrum) -> dict[str, Any]:
    return {
        "module": spectrum.name,
        "rank": spectrum.rank,
        "numerical_rank": len(spectrum.sigma_K),
        "effective_rank": spectrum.effective_rank,
        "largest": float(spectrum.sigma_K[0]) if len(spectrum.sigma_K) else 0.0,
        "norm": float(spectrum.sigma_K.norm()),
    } | {f"rank_for_{energy:.0%}".removesuffix("%"): spectrum.rank_for(energy) for energy in ENERGIES}


def _whole(spectrum: Spectrum) -> dict[str, Any]:
    return _brief(spectrum) | {"singular_values": spectrum.sigma_K.tolist(), "energy": spectrum.energy_K.tolist()}


def _mean(results: Sequence[Spectrum]) -> dict[str, float]:
    numbers = [_brief(each) for each in results]
    names = ("rank", "effective_rank", "rank_for_90", "rank_for_99", "norm")
    return {"modules": len(results)} | {name: sum(each[name] for each in numbers) / len(numbers) for name in names}


def _draw(results: Sequence[Spectrum], path: Path, name: str) -> None:
    kinds = by_kind(results)
    energy = {kind: _curve(these) for kind, these in kinds.items()}
    draw_charts(
        [
            Chart(
                "energy kept, mean of the modules (band: least and most)",
                "rank kept",
                "share of ‖ΔW‖²",
                {kind: (ranks, mean) for kind, (ranks, mean, _, _) in energy.items()},
                {kind: (least, most) for kind, (_, _, least, most) in energy.items()},
            ),
            Chart(
                "directions in use",
                "block",
                "effective rank",
                {kind: (places(these), [each.effective_rank for each in these]) for kind, these in kinds.items()},
            ),
        ],
        path,
        f"Singular values of {name}",
    )


def _curve(results: Sequence[Spectrum]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Ranks, and the mean, least and most energy that each keeps; an update of fewer values has all of it."""
    longest = max(len(each.sigma_K) for each in results)
    padded = [[*each.energy_K.tolist(), *[1.0] * (longest - len(each.sigma_K))] for each in results]
    columns = list(zip(*padded, strict=True))
    ranks = [float(rank) for rank in range(1, longest + 1)]
    return ranks, [sum(c) / len(c) for c in columns], [min(c) for c in columns], [max(c) for c in columns]
