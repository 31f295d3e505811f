"""The chunked cross-entropy against torch's own, in value and in every gradient."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loralab.models.fast import cross_entropy
from loralab.models.fast.cross_entropy import losses_and_gradient_, sum_cross_entropy


def reference(hidden: Tensor, head: nn.Module, targets: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(head(hidden), targets, reduction="sum", label_smoothing=smoothing)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 16 positions and blocks of 3, so that 37 positions take several of each."""
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 1)
    monkeypatch.setattr(cross_entropy, "BLOCK_BYTES", 4 * 50 * 3)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_frozen_head_gives_torchs_loss_and_hidden_gradient(smoothing: float, bias: bool) -> None:
    head = nn.Linear(12, 50, bias=bias, dtype=torch.float64).requires_grad_(False)
    hidden = torch.randn(37, 12, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 50, (37,))
    ours, theirs = sum_cross_entropy(hidden, head, targets, smoothing), reference(hidden, head, targets, smoothing)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    found, expected = torch.autograd.grad(ours * 3, hidden)[0], torch.autograd.grad(theirs * 3, hidden)[0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_trained_head_gets_its_own_gradients(smoothing: float) -> None:
    head = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 50)).double()
    hidden = torch.randn(37, 12, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 50, (37,))
    wanted = (hidden, *head.parameters())
    found = torch.autograd.grad(sum_cross_entropy(hidden, head, targets, smoothing), wanted)
    expected = torch.autograd.grad(reference(hidden, head, targets, smoothing), wanted)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_hooked_head_is_called_not_bypassed() -> None:
    head = nn.Linear(12, 50).requires_grad_(False)
    head.register_forward_hook(lambda module, inputs, output: output * 2)
    hidden, targets = torch.randn(20, 12, requires_grad=True), torch.randint(0, 50, (20,))
    ours = sum_cross_entropy(hidden, head, targets)
    torch.testing.assert_close(ours, reference(hidden, head, targets, 0.0))


def test_without_gradients_the_loss_is_the_same() -> None:
    head = nn.Linear(12, 50).requires_grad_(False)
    hidden, targets = torch.randn(37, 12, requires_grad=True), torch.randint(0, 50, (37,))
    with torch.no_grad():
        measured = sum_cross_entropy(hidden, head, targets)
    assert not measured.requires_grad
    torch.testing.assert_close(measured, sum_cross_entropy(hidden, head, targets).detach())


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits = torch.randn(40, 50).mul(4).to(torch.bfloat16)
    targets = torch.randint(0, 50, (40,))
    expected = F.cross_entropy(logits.float(), targets, reduction="none")
    torch.testing.assert_close(losses_and_gradient_(logits, targets), expected, rtol=1e-5, atol=1e-5)


def test_huge_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]])
    loss = losses_and_gradient_(logits, torch.tensor([1]))
    assert loss.item() == pytest.approx(2e4)
    torch.testing.assert_close(logits, torch.tensor([[1.0, -1.0, 0.0]]))


def test_no_targets_give_zero_loss_and_gradient() -> None:
    head = nn.Linear(12, 50).requires_grad_(False)
    hidden = torch.randn(0, 12, requires_grad=True)
    loss = sum_cross_entropy(hidden, head, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert hidden.grad.shape == (0, 12)
