"""The algebra of thin factors against that of the matrices they multiply to."""

import pytest
import torch

from loralab.core.math import delta
from loralab.core.thin import Thin, pooled_ranks, rank_for_energy, truncated
from planted import spectrum


def test_balanced_factors_are_the_update_in_equal_shares() -> None:
    A, B = spectrum([5.0, 2.0, 1.0], 3)
    whole = Thin.of(A, B)
    A_balanced, B_balanced = whole.cut(3)
    torch.testing.assert_close(B_balanced @ A_balanced, (B @ A).double(), rtol=0, atol=1e-6)
    assert whole.energy_K.tolist() == pytest.approx([25.0, 4.0, 1.0], rel=1e-5)
    for rows in (A_balanced, B_balanced.T):
        assert rows.square().sum(-1).tolist() == pytest.approx([5.0, 2.0, 1.0], rel=1e-5)


def test_the_error_squared_is_the_sum_of_the_dropped_squares() -> None:
    whole = Thin.of(*spectrum([5.0, 2.0, 1.0, 0.5], 4))
    for rank, dropped in ((1, 5.25), (2, 1.25), (3, 0.25)):
        assert whole.distance(Thin(*whole.cut(rank))) ** 2 == pytest.approx(dropped, rel=1e-5)
    assert whole.norm() ** 2 == pytest.approx(30.25, rel=1e-6)


def test_groups_are_cut_and_measured_together() -> None:
    A, B = torch.randn(3, 4, 9, dtype=torch.float64), torch.randn(3, 7, 4, dtype=torch.float64)
    whole = Thin.of(A, B, scale=-2.0)
    U, sigma, V = whole.svd
    torch.testing.assert_close((U * sigma[:, None]) @ V.mT, -2 * B @ A)
    assert whole.norm() == pytest.approx(2 * float(torch.linalg.vector_norm(B @ A)))
    assert whole.energy_K.sum().sqrt().item() == pytest.approx(whole.norm())


def test_what_is_never_read_or_written_stays_zero() -> None:
    A, B = spectrum([5.0, 2.0], 2)
    A[:, 3], B[4] = 0, 0
    A_cut, B_cut = Thin.of(A, B).cut(1)
    assert not A_cut[:, 3].any()
    assert not B_cut[4].any()


def test_truncation_is_the_best_and_tells_its_error() -> None:
    A, B = torch.randn(6, 9, dtype=torch.float64), torch.randn(7, 6, dtype=torch.float64)
    D = delta(A, B, torch.float64)
    A_small, B_small, error = truncated(A, B, 2)
    S = torch.linalg.svdvals(D)
    lost = torch.linalg.vector_norm(D - B_small @ A_small)
    torch.testing.assert_close(lost, S[2:].norm())
    assert error == pytest.approx(float(lost / D.norm()))


def test_the_rank_for_an_energy() -> None:
    energy = torch.tensor([64.0, 25.0, 10.0, 1.0, 1e-14], dtype=torch.float64)
    shares = {0.5: 1, 0.64: 1, 0.65: 2, 0.89: 2, 0.95: 3, 0.99: 3, 0.995: 4, 1.0: 4}
    assert {share: rank_for_energy(energy, share) for share in shares} == shares
    assert rank_for_energy(torch.zeros(3), 0.9) == 1


def test_a_pool_gives_rank_to_whom_it_serves() -> None:
    strong, weak = torch.tensor([80.0, 10.0, 5.0]), torch.tensor([4.0, 0.5, 0.5])
    assert pooled_ranks([strong, weak], 0.95) == [3, 1]
    assert pooled_ranks([strong, weak], 0.99) == [3, 1]
    assert pooled_ranks([strong, weak], 1.0) == [3, 3]
