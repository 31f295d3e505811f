"""Dropout from 16 bits a number: as often as asked, unbiased, its own mask in the backward pass, gone afterwards."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from loralab.nn.dropout import dropout, kept, quick_dropout, scaled


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.93])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_are_dropped_as_often_as_asked_and_the_rest_is_scaled(probability: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    y = dropout(torch.ones(401, 251, dtype=dtype), probability)
    largest = y.max()
    assert set(y.unique().tolist()) == {0.0, float(largest)}
    torch.testing.assert_close((y == 0).double().mean().item(), probability, rtol=0, atol=0.006)
    torch.testing.assert_close(float(largest), 1 / (1 - probability), rtol=5e-3, atol=0)


def test_the_factor_is_that_of_the_probability_that_was_drawn() -> None:
    _, factor = kept(torch.Size([8]), 0.1)
    assert factor == 65536 / (65536 - 6554)


def test_four_numbers_from_one_word_are_independent() -> None:
    torch.manual_seed(1)
    stays, _ = kept(torch.Size([40_000, 4]), 0.3)
    seen = torch.corrcoef(stays.T.double())
    torch.testing.assert_close(seen, torch.eye(4, dtype=torch.float64), rtol=0, atol=0.03)
    shares = stays.double().mean(0)
    torch.testing.assert_close(shares, torch.full((4,), 0.7, dtype=torch.float64), rtol=0, atol=0.012)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 0), (5, 7)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    assert dropout(torch.ones(shape), 0.5).shape == shape


def test_probability_one_drops_all_and_zero_nothing() -> None:
    x = torch.randn(9, 9)
    assert not dropout(x, 1.0).any()
    assert torch.equal(dropout(x, 0.0), x)


def test_the_gradient_passes_where_the_number_did() -> None:
    x = torch.randn(20, 30, requires_grad=True)
    y = dropout(x, 0.4)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)
    torch.testing.assert_close(x.grad * x, y)


def test_a_mask_by_way_of_bytes_is_the_mask() -> None:
    stays = torch.tensor([True, False, True])
    assert torch.equal(scaled(stays, 1.25, torch.bfloat16), torch.tensor([1.25, 0, 1.25], dtype=torch.bfloat16))


def test_a_block_that_is_computed_again_drops_the_same() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3)).train(), torch.randn(6, 8)
    gradients = []
    with quick_dropout(model):
        for again in (False, True):
            torch.manual_seed(4)
            y = checkpoint(model, x, use_reentrant=False) if again else model(x)
            gradients.append(torch.autograd.grad(y.square().sum(), list(model.parameters())))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_only_dropouts_in_training_are_touched_and_only_within() -> None:
    model, x = nn.Sequential(nn.Dropout(0.5), nn.Dropout1d(0.5), nn.Identity()), torch.randn(4, 6, 8)
    with quick_dropout(model) as found:
        assert found == 1
        assert torch.equal(model.eval()(x), x)
        torch.manual_seed(0)
        quick = model[0].train()(x)
        torch.manual_seed(0)
        assert torch.equal(quick, dropout(x, 0.5))
    assert "forward" not in vars(model[0])
    torch.manual_seed(0)
    own = model[0](x)
    torch.manual_seed(0)
    assert torch.equal(own, nn.functional.dropout(x, 0.5))
    assert not torch.equal(own, quick)
