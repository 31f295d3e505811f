"""Streaming components are those of all rows at once; what is cut does not matter much, and nothing is cut if K = I."""

import pytest
import torch
from torch import Tensor

import loralab as ll
from loralab.methods.eva.components import PrincipalComponents, have_settled


def rows(count: int, width: int, decay: float = 0.9) -> Tensor:
    """Correlated rows about a mean that is far from zero, their variance falling by `decay` from axis to axis."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
    scales = decay ** torch.arange(width, dtype=torch.float64)
    offset = 5 * torch.randn(width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) * scales @ axes + offset


def exact(X: Tensor) -> tuple[Tensor, Tensor]:
    _, values, directions = torch.linalg.svd(X - X.mean(0), full_matrices=False)
    return values, directions


def streamed(X: Tensor, kept: int, piece: int) -> PrincipalComponents:
    components = PrincipalComponents(kept)
    for part in X.split(piece):
        components.add(part)
    return components


@pytest.mark.parametrize("piece", [1, 7, 300, 1000])
def test_pieces_are_the_whole_where_nothing_is_cut(piece: int) -> None:
    X = rows(600, 24)
    values, directions = exact(X)
    components = streamed(X, 24, piece)
    found, axes = components.leading()
    torch.testing.assert_close(found, values, rtol=1e-10, atol=0)
    torch.testing.assert_close((axes * directions).sum(1).abs(), torch.ones(24, dtype=torch.float64))
    torch.testing.assert_close(components.explained(found).sum(), torch.tensor(1.0, dtype=torch.float64))


def test_the_shares_are_of_all_variance_though_directions_are_cut() -> None:
    X = rows(600, 96, decay=0.95)
    values, directions = exact(X)
    components = streamed(X, 40, 50)
    found, axes = components.leading()
    assert len(found) == 40
    torch.testing.assert_close(
        components.explained(found)[:8], values[:8].square() / values.square().sum(), rtol=1e-3, atol=0
    )
    assert (axes[:8] @ directions[:8].T).svd().S.min() > 0.999
    torch.testing.assert_close(axes @ axes.T, torch.eye(40, dtype=torch.float64))


def test_directions_without_variance_are_none() -> None:
    X = rows(50, 24)
    X[:, 3:] = X[0, 3:]
    assert len(streamed(X, 24, 10).leading()[0]) == 3
    assert len(streamed(rows(5, 24), 24, 2).leading()[0]) == 4
    assert len(streamed(torch.ones(9, 4), 4, 2).leading()[0]) == 0


def test_settled_is_every_direction_by_itself_and_without_its_sign() -> None:
    axes = torch.eye(4, dtype=torch.float64)
    turned = axes.clone()
    turned[2] = torch.tensor([0, 0, 0.98, 0.2])
    assert have_settled(axes, -axes, 4, 0.999)
    assert have_settled(axes, turned, 2, 0.99)
    assert not have_settled(axes, turned, 3, 0.99)
    assert not have_settled(axes[:1], axes, 2, 0.0)


def test_no_rows_and_rows_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ll.NumericsError, match="no rows"):
        PrincipalComponents(4).leading()
    with pytest.raises(ll.NumericsError, match="NaN"):
        PrincipalComponents(4).add(torch.tensor([[1.0, float("nan")]]))
