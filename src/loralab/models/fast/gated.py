"""Gated feed-forwards that keep less for the backward pass: y = down(f(g)·u) with g = gate(x) and u = up(x).

transformers' own keeps f(g) as well as g and u; this keeps g and u, or with `recompute` only x. g and u come of two
projections, or are the halves of one (Phi 3). Which child of a module is which is told by their shapes and by a trial,
f too is found by running it; the projections are called as whatever they are: adapted, quantised, transposed.

Shapes: H width, F inner width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from loralab.models.fast.activation import ACTIVATIONS, Activation, activation_of
from loralab.models.fast.trial import Forward, agrees, numbers_for, own_forward
from loralab.nn.dense import dense_shape
from loralab.nn.trial import is_transformers_conv1d, output_of

SILU = ACTIVATIONS[0]


@dataclass(frozen=True)
class GatedParts:
    """The children of one feed-forward. A dropout acts on f(g)·u, or on y."""

    project: Callable[[Tensor], tuple[Tensor, Tensor]]
    """x -> g and u."""
    down: nn.Module
    activation: Activation
    inner_dropout: nn.Module | None = None
    outer_dropout: nn.Module | None = None

    def __call__(self, x: Tensor, recompute: bool) -> Any:
        """y."""

        def inner(x: Tensor) -> Tensor:
            return gated(*self.project(x), self.activation)

        again = recompute and torch.is_grad_enabled()
        h = checkpoint(inner, x, use_reentrant=False) if again else inner(x)
        y = self.down(h if self.inner_dropout is None else self.inner_dropout(h))
        return y if self.outer_dropout is None else self.outer_dropout(y)


def gated(gate: Tensor, up: Tensor, activation: Activation = SILU) -> Tensor:
    """f(gate)·up, differentiable in both."""
    y: Tensor = _Gated.apply(gate, up, activation)  # type: ignore[no-untyped-call]
    return y


def lean_gate(module: nn.Module, recompute: bool) -> Forward | None:
    """The lean forward of a module that computes a gated feed-forward; None for any other."""
    for width, parts in _candidates(module):
        forward = _forward(module, parts, recompute)
        if agrees(module, forward, numbers_for(module, 2, width)):
            return forward
    return None


def _forward(module: nn.Module, parts: GatedParts, recompute: bool) -> Forward:
    def forward(x: Tensor, *others: Any, **named: Any) -> Any:
        return own_forward(module)(x, *others, **named) if others or named else parts(x, recompute)

    return forward


def _candidates(module: nn.Module) -> Iterator[tuple[int, GatedParts]]:
    """H, and every way in which dense children, an activation and at most one dropout can be a gated feed-forward."""
    children = list(module.children())
    dense = [each for each in children if _shape(each) != (0, 0)]
    dropouts = [each for each in children if isinstance(each, nn.Dropout)]
    others = [each for each in children if each not in dense and each not in dropouts]
    if len(dense) not in (2, 3) or len(dropouts) > 1 or len(others) != 1 or any(True for _ in others[0].parameters()):
        return
    activation = activation_of(others[0])
    if activation is None:
        return
    for down, project in _projections(dense):
        width, inner = _shape(down)
        where = _width_at(dropouts[0], module, width) if dropouts else 0
        if where == 0:
            yield width, GatedParts(project, down, activation)
        elif inner != width and where == inner:
            yield width, GatedParts(project, down, activation, inner_dropout=dropouts[0])
        elif inner != width:
            yield width, GatedParts(project, down, activation, outer_dropout=dropouts[0])


def _projections(dense: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, Callable[[Tensor], tuple[Tensor, Tensor]]]]:
    """Every projection down, and what may give g and u beside it: two projections up, or the halves of one."""
    for down, first, *rest in permutations(dense):
        width, inner = _shape(down)
        shapes = [_shape(each) for each in (first, *rest)]
        if shapes == [(inner, width)] * 2:
            yield down, partial(_two, first, rest[0])
        elif shapes == [(2 * inner, width)]:
            yield down, partial(_halves, first, 0)
            yield down, partial(_halves, first, 1)


def _two(gate: nn.Module, up: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    return gate(x), up(x)


def _halves(both: nn.Module, first: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """g is the half of this number."""
    halves = both(x).chunk(2, dim=-1)
    return halves[first], halves[1 - first]


def _width_at(dropout: nn.Module, module: nn.Module, width: int) -> int:
    """How wide the input of this child is when the module runs; 0 where it is not called."""
    seen: list[int] = []
    handle = dropout.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    try:
        output_of(module, numbers_for(module, 2, width), module)
    finally:
        handle.remove()
    return seen[0] if seen else 0


def _shape(module: nn.Module) -> tuple[int, int]:
    """(O, I) of what says that it is dense, adapted or not; (0, 0) of anything else."""
    if is_transformers_conv1d(getattr(module, "base", module)):
        return dense_shape(getattr(module, "base", module))
    sizes = getattr(module, "out_features", 0), getattr(module, "in_features", 0)
    return sizes if all(isinstance(size, int) for size in sizes) else (0, 0)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return activation.forward(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        activation: Activation = ctx.activation
        return activation.backward(grad * up, gate), activation.forward(gate).mul_(grad), None
