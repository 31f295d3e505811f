"""The softmax cross-entropy of an output head, a chunk of positions at a time; logits are never whole in memory.

    loss = Σ_n [ lse(x_n) − (1−ε)·x_n[y_n] − ε·mean(x_n) ],   x = head(h)
    ∂loss/∂x_n = softmax(x_n) − (1−ε)·onehot(y_n) − ε/V

Where positions have weights w_n, each is multiplied by its own.

The gradient with respect to the hidden states is formed in the forward pass, while a chunk's logits are still in
the cache, so nothing of the vocabulary's width is kept for the backward pass. It knows a head as a module that maps
hidden states to logits, and nothing of models or batches.

Shapes: N target positions, H hidden width, V vocabulary.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from loralab.nn.tensors import wide

CHUNK_BYTES = 64 * 2**20
"""Float32 logits held at once: large enough for matrix products at full speed, small beside any model."""

BLOCK_BYTES = 3 * 2**20
"""Float32 logits that the elementwise passes work through at once on a CPU: about the second-level caches of two cores
(blocks of 3 MB took 0.7 of the time of whole chunks in float32, 0.55 in bfloat16)."""


def sum_cross_entropy(
    hidden_NH: Tensor, head: nn.Module, targets_N: Tensor, smoothing: float = 0.0, weights_N: Tensor | None = None
) -> Tensor:
    """The sum of the losses in nats, a float32 scalar; differentiable in `hidden_NH` and in the head's parameters."""
    trainable = [parameter for parameter in head.parameters() if parameter.requires_grad]
    if torch.is_grad_enabled() and (hidden_NH.requires_grad or trainable):
        loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_NH, targets_N, head, smoothing, weights_N, *trainable
        )
        return loss
    total = hidden_NH.new_zeros((), dtype=wide(hidden_NH))
    buffer = _logits_buffer(hidden_NH, head) if _is_frozen_linear(head) else None
    for rows in _chunks(hidden_NH, head):
        logits = _logits(hidden_NH[rows], head, buffer)
        total += losses_and_gradient_(logits, targets_N[rows], smoothing, _part(weights_N, rows)).sum()
    return total


def position_losses(hidden_NH: Tensor, head: nn.Module, targets_N: Tensor, smoothing: float = 0.0) -> Tensor:
    """The loss of each position in nats [N], float32; differentiable in `hidden_NH`. The head must not train."""
    losses_N: Tensor = _PositionLosses.apply(hidden_NH, targets_N, head, smoothing)  # type: ignore[no-untyped-call]
    return losses_N


def trains(head: nn.Module) -> bool:
    """Whether any parameter of the head gets gradients."""
    return any(parameter.requires_grad for parameter in head.parameters())


def losses_and_gradient_(
    logits_NV: Tensor, targets_N: Tensor, smoothing: float = 0.0, weights_N: Tensor | None = None
) -> Tensor:
    """The loss of each row, in float32 or wider; `logits_NV` is overwritten by the gradient of their sum."""
    rows = len(logits_NV)
    block = max(1, BLOCK_BYTES // (4 * logits_NV.shape[1])) if logits_NV.device.type == "cpu" else max(1, rows)
    losses = logits_NV.new_empty(rows, dtype=wide(logits_NV))
    for start in range(0, rows, block):
        part = slice(start, start + block)
        weights = None if weights_N is None else weights_N[part, None]
        losses[part] = _block_losses_and_gradient_(logits_NV[part], targets_N[part, None], smoothing, weights)
    return losses


def _block_losses_and_gradient_(
    logits_NV: Tensor, targets_N1: Tensor, smoothing: float, weights_N1: Tensor | None
) -> Tensor:
    x = logits_NV.to(wide(logits_NV))
    at_target = x.gather(1, targets_N1)
    mean = x.mean(1, keepdim=True) if smoothing else 0.0
    top = x.amax(1, keepdim=True)
    total = x.sub_(top).exp_().sum(1, keepdim=True)
    losses = total.log() + top - (1 - smoothing) * at_target - smoothing * mean
    x.mul_(total.reciprocal())
    if smoothing:
        x.sub_(smoothing / x.shape[1])
    x.scatter_add_(1, targets_N1, torch.full_like(at_target, smoothing - 1))
    if weights_N1 is not None:
        x.mul_(weights_N1)
        losses = losses * weights_N1
    if x is not logits_NV:
        logits_NV.copy_(x)
    return losses.squeeze(1)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Inputs: hidden states, targets, the head, ε, weights, the head's trainable parameters (they get gradients)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        targets_N: Tensor,
        head: nn.Module,
        smoothing: float,
        weights_N: Tensor | None,
        *trainable: Tensor,
    ) -> Tensor:
        if _is_frozen_linear(head):
            losses_N, gradients = _through_frozen_linear(hidden_NH, targets_N, head, smoothing, weights_N)
        else:
            losses_N, gradients = _through_module(hidden_NH, targets_N, head, smoothing, weights_N, trainable)
        ctx.save_for_backward(*gradients)
        return losses_N.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, *others = (
            None if gradient is None else gradient * grad.to(gradient.dtype) for gradient in ctx.saved_tensors
        )
        return hidden_gradient, None, None, None, None, *others


class _PositionLosses(torch.autograd.Function):
    """Inputs: hidden states, targets, the head, ε. A position's loss depends on its own hidden state alone."""

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, targets_N: Tensor, head: nn.Module, smoothing: float) -> Tensor:
        through = _through_frozen_linear if _is_frozen_linear(head) else _through_module
        losses_N, gradients = through(hidden_NH, targets_N, head, smoothing, None)
        ctx.save_for_backward(*gradients)
        return losses_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_NH,) = ctx.saved_tensors
        return gradient_NH * grad_N[:, None].to(gradient_NH.dtype), None, None, None


def _through_frozen_linear(
    hidden_NH: Tensor, targets_N: Tensor, head: nn.Module, smoothing: float, weights_N: Tensor | None
) -> tuple[Tensor, list[Tensor | None]]:
    """Losses and hidden gradient for a plain frozen `nn.Linear`: two products a chunk into buffers used again."""
    weight_VH: Tensor = head.weight  # type: ignore[assignment]
    losses_N = hidden_NH.new_empty(len(hidden_NH), dtype=wide(hidden_NH))
    gradient_NH = torch.empty_like(hidden_NH)
    buffer = _logits_buffer(hidden_NH, head)
    for rows in _chunks(hidden_NH, head):
        logits = _logits(hidden_NH[rows], head, buffer)
        losses_N[rows] = losses_and_gradient_(logits, targets_N[rows], smoothing, _part(weights_N, rows))
        torch.mm(logits, weight_VH, out=gradient_NH[rows])
    return losses_N, [gradient_NH]


def _through_module(
    hidden_NH: Tensor,
    targets_N: Tensor,
    head: nn.Module,
    smoothing: float,
    weights_N: Tensor | None,
    trainable: tuple[Tensor, ...] = (),
) -> tuple[Tensor, list[Tensor | None]]:
    """Losses under any head (adapted, trained in full, several layers), differentiated chunk by chunk by autograd."""
    losses_N = hidden_NH.new_empty(len(hidden_NH), dtype=wide(hidden_NH))
    hidden_gradient = torch.empty_like(hidden_NH)
    gradients: list[Tensor | None] = [None] * len(trainable)  # of what takes no part, as another adapter's, none
    for rows in _chunks(hidden_NH, head):
        part = hidden_NH[rows].detach().requires_grad_()
        with torch.enable_grad():
            logits = head(part)
        upstream = logits.detach().clone()
        losses_N[rows] = losses_and_gradient_(upstream, targets_N[rows], smoothing, _part(weights_N, rows))
        chunk_gradients = torch.autograd.grad(logits, (part, *trainable), upstream, allow_unused=True)
        hidden_gradient[rows] = chunk_gradients[0]
        gradients = list(map(_added, gradients, chunk_gradients[1:]))
    return losses_N, [hidden_gradient, *gradients]


def _added(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The sum of the gradients that there are."""
    return other if one is None else one if other is None else one.add_(other)


def _part(weights_N: Tensor | None, rows: slice) -> Tensor | None:
    return None if weights_N is None else weights_N[rows]


def _is_frozen_linear(head: nn.Module) -> bool:
    """Whether head(h) is exactly h·Wᵀ + b, with nothing in it that trains or listens."""
    hooked = head._forward_hooks or head._forward_pre_hooks or head._backward_hooks or head._backward_pre_hooks
    return type(head) is nn.Linear and not hooked and not trains(head)


def _logits(hidden_NH: Tensor, head: nn.Module, buffer: Tensor | None) -> Tensor:
    if buffer is None or not isinstance(head, nn.Linear):
        logits: Tensor = head(hidden_NH)
        return logits
    out = buffer[: len(hidden_NH)]
    if head.bias is None:
        return torch.mm(hidden_NH, head.weight.T, out=out)
    return torch.addmm(head.bias, hidden_NH, head.weight.T, out=out)


def _logits_buffer(hidden_NH: Tensor, head: nn.Module) -> Tensor:
    rows = max((chunk.stop - chunk.start for chunk in _chunks(hidden_NH, head)), default=0)
    return hidden_NH.new_empty(rows, _vocabulary(head))


def _chunks(hidden_NH: Tensor, head: nn.Module) -> Iterator[slice]:
    """Equal chunks of positions, each with at most `CHUNK_BYTES` of float32 logits (and at least 16 positions)."""
    positions = len(hidden_NH)
    most = max(16, CHUNK_BYTES // (4 * _vocabulary(head)))
    size = math.ceil(positions / max(1, math.ceil(positions / most)))
    return (slice(start, min(start + size, positions)) for start in range(0, positions, max(1, size)))


def _vocabulary(head: nn.Module) -> int:
    """The width of the logits: the head's own word for it, or the longest side of its largest matrix."""
    known = getattr(head, "out_features", None)
    if isinstance(known, int):
        return known
    return max((max(parameter.shape) for parameter in head.parameters() if parameter.ndim > 1), default=1)
