"""Effective rank and energy of planted singular values."""

from pathlib import Path

import pytest
import torch

from loralab.analysis.adapters.spectrum import Spectrum, spectra
from loralab.formats.read import read_adapter
from planted import orthonormal, write_adapter


def of(*sigma: float) -> Spectrum:
    return Spectrum("q", len(sigma), torch.tensor(sigma, dtype=torch.float64))


def test_effective_rank_counts_equal_values_and_hardly_weak_ones() -> None:
    assert of(2, 2, 2, 2).effective_rank == pytest.approx(4)
    assert of(7).effective_rank == pytest.approx(1)
    assert 1 < of(1, 0.01).effective_rank < 1.1
    assert of().effective_rank == 0


def test_energy() -> None:
    spectrum = of(3, 2, 1)
    assert spectrum.energy_K.tolist() == pytest.approx([9 / 14, 13 / 14, 1])
    assert [spectrum.rank_for(energy) for energy in (0.5, 0.9, 0.99, 1.0)] == [1, 2, 3, 3]
    assert (of().rank_for(0.9), of().energy_K.tolist()) == (0, [])


def test_planted_values_come_back_in_the_order_of_the_blocks(tmp_path: Path) -> None:
    sigma = torch.tensor([4.0, 1.0])
    factors = (orthonormal(12, 2, 1).T, orthonormal(10, 2, 2) * sigma)
    adapter = read_adapter(
        write_adapter(tmp_path / "one", {"layers.1.q": factors, "layers.0.v": factors}, alpha=6)
    ).demand()
    found = list(spectra(adapter))
    assert [each.name for each in found] == ["layers.0.v", "layers.1.q"]
    assert found[0].sigma_K.tolist() == pytest.approx([12, 3], rel=1e-5)
    assert [each.name for each in spectra(adapter, "q$")] == ["layers.1.q"]


def test_factors_that_repeat_a_direction_have_a_lower_rank(tmp_path: Path) -> None:
    A, B = orthonormal(12, 2, 1).T, orthonormal(10, 2, 2)
    A[1] = A[0]
    (found,) = spectra(read_adapter(write_adapter(tmp_path / "one", {"layers.0.q": (A, B)})).demand())
    assert (found.rank, len(found.sigma_K)) == (2, 1)
