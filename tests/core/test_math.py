"""The pure functions against their definitions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from loralab.core.math import adapted_linear, low_rank, low_rank_rows, scaled_linear, scaling
from loralab.core.projection import wide_linear


def test_scaling_is_alpha_over_rank_or_its_root() -> None:
    assert scaling(16, 8) == 2.0
    assert scaling(16, 4, rank_stabilized=True) == 8.0


@pytest.mark.parametrize("with_bias", [True, False])
def test_adapted_linear_has_the_gradients_of_its_definition(with_bias: bool) -> None:
    x, A, B = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 5), (2, 5), (4, 2)))
    W = torch.randn(4, 5, dtype=torch.float64)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True) if with_bias else None
    expected = x @ W.T + x @ A.T @ B.T + (0 if bias is None else bias)
    torch.testing.assert_close(adapted_linear(x, W, bias, A, B), expected)
    assert torch.autograd.gradcheck(lambda x, A, B: adapted_linear(x, W, bias, A, B), (x, A, B))


def test_adapted_linear_gives_a_trained_bias_its_gradient() -> None:
    x, bias = torch.randn(6, 5), torch.randn(4, requires_grad=True)
    adapted_linear(x, torch.randn(4, 5), bias, torch.randn(2, 5), torch.randn(4, 2)).sum().backward()
    torch.testing.assert_close(bias.grad, torch.full((4,), 6.0))


def test_adapted_linear_keeps_the_input_itself_and_no_copy_of_it() -> None:
    x = torch.randn(6, 5, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        adapted_linear(x, torch.randn(4, 5), None, torch.randn(2, 5, requires_grad=True), torch.randn(4, 2))
    as_long_as_x = [tensor for tensor in kept if tensor.shape[0] == 6]
    assert sorted(tuple(tensor.shape) for tensor in as_long_as_x) == [(6, 2), (6, 5)]
    assert any(tensor.data_ptr() == x.data_ptr() for tensor in as_long_as_x)


def test_adapted_linear_keeps_no_input_for_a_frozen_A() -> None:
    x = torch.randn(6, 5, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        adapted_linear(x, torch.randn(4, 5), None, torch.randn(2, 5), torch.randn(4, 2, requires_grad=True))
    assert [tuple(tensor.shape) for tensor in kept if tensor.shape[0] == 6] == [(6, 2)]


LINEAR: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "adapted": lambda x, W, A, B: adapted_linear(x, W, None, A, B),
    "scaled": lambda x, W, A, B: scaled_linear(x, W, None, A, B, torch.ones(4)),
    "wide": lambda x, W, A, B: wide_linear(x, W + B @ A, None),
}


@pytest.mark.parametrize("name", LINEAR)
def test_what_a_layer_gives_may_be_changed_in_place(name: str) -> None:
    """As Hubert does with padded positions."""
    x, W, A, B = torch.randn(2, 3, 5), torch.randn(4, 5), torch.randn(2, 5), torch.randn(4, 2)
    grads = []
    for linear in (LINEAR[name], lambda x, W, A, B: x @ (W + B @ A).T):
        given = x.clone().requires_grad_(), W, A.clone().requires_grad_(), B.clone().requires_grad_()
        h = linear(*given)
        h[:, 1] = 0
        h.mul_(2)
        h.square().sum().backward()
        grads.append([given[0].grad, given[2].grad, given[3].grad])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("name", LINEAR)
def test_no_rows_and_a_single_one(name: str) -> None:
    """As an expert sees that no token chose."""
    W, A, B = torch.randn(4, 5), torch.randn(2, 5), torch.randn(4, 2)
    for shape in ((0, 5), (2, 0, 5), (5,)):
        x = torch.randn(shape, requires_grad=True)
        h = LINEAR[name](x, W, A, B)
        assert h.shape == (*shape[:-1], 4)
        h.sum().backward()
        assert x.grad is not None


def test_adapted_linear_refuses_a_second_derivative() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    h = adapted_linear(x, torch.randn(2, 3), None, torch.randn(1, 3), torch.randn(2, 1))
    (grad,) = torch.autograd.grad(h.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_rows_apply_each_sequence_its_own_factors() -> None:
    x, A, B = torch.randn(3, 4, 5), torch.randn(2, 2, 5), torch.randn(2, 6, 2)
    mixed = low_rank_rows(x, A, B, torch.tensor([1, 0, 1]))
    single = torch.stack([low_rank(x[s], A[k], B[k]) for s, k in enumerate((1, 0, 1))])
    torch.testing.assert_close(mixed, single)
