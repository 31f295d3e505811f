"""Leaf functions that keep less for the backward pass and touch memory less often, put on a model from outside.

    RMSNorm:   y = w·x·ρ, ρ = (mean x² + ε)^−½      keeps x and ρ (transformers' own keeps a float32 copy of x)
    SwiGLU:    y = silu(g)·u                        keeps g and u (transformers' own keeps silu(g) as well)

Only modules that are recognised and found by a trial to compute the same are replaced, and only within `lean_leaves`.
It knows nothing of LoRA: the projections around a SwiGLU are called as whatever they are.

Shapes: N rows (all leading dimensions), H width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from loralab.nn.mode import evaluating


def rms_norm(x: Tensor, weight_H: Tensor, epsilon: float) -> Tensor:
    """w·x·(mean x² + ε)^−½ over the last dimension, in float32 inside; differentiable in x alone (w is frozen)."""
    y: Tensor = _RMSNorm.apply(x, weight_H, epsilon)  # type: ignore[no-untyped-call]
    return y


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate)·up, differentiable in both."""
    y: Tensor = _SwiGLU.apply(gate, up)  # type: ignore[no-untyped-call]
    return y


@contextmanager
def lean_leaves(model: nn.Module, recompute_gates: bool = False) -> Iterator[int]:
    """Within this, the modules that can be lean are; yields how many. Afterwards each is as it was.

    With `recompute_gates` g and u are not kept either but computed again in the backward pass from the input of their
    projections: of a Llama's block that is half of what is kept, for a quarter more work.
    """
    replaced = [module for module in model.modules() if _make_lean(module, recompute_gates)]
    try:
        yield len(replaced)
    finally:
        for module in replaced:
            del module.forward


class _RMSNorm(torch.autograd.Function):
    """Backward, with x̂ = x·ρ and g = w∘∂/∂y:   ∂x = ρ·(g − x̂·mean(g∘x̂))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_H: Tensor, epsilon: float) -> Tensor:
        wide = x.float() if x.dtype != torch.float64 else x
        rho = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, rho, weight_H)
        normal = wide * rho if wide is x else wide.mul_(rho)
        return normal.to(x.dtype).mul_(weight_H)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, rho, weight_H = ctx.saved_tensors
        normal = x * rho
        g = grad * weight_H
        along = torch.linalg.vecdot(g.to(normal.dtype), normal).unsqueeze(-1).div_(-x.shape[-1])
        return normal.mul_(along).add_(g).mul_(rho).to(x.dtype), None, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


def _make_lean(module: nn.Module, recompute_gates: bool) -> bool:
    """Give this module's instance a lean forward if it is one of the two kinds and a trial agrees."""
    forward, width = _lean_forward(module, recompute_gates)
    if forward is None or not _agrees(module, forward, width):
        return False
    module.forward = forward
    return True


def _lean_forward(module: nn.Module, recompute_gates: bool) -> tuple[Callable[[Tensor], Tensor] | None, int]:
    """The lean forward for a module of a known shape, and the width of its input."""
    if type(module).__name__.endswith("RMSNorm") and [name for name, _ in module.named_parameters()] == ["weight"]:
        weight, epsilon = module.get_parameter("weight"), getattr(module, "variance_epsilon", None)
        if epsilon is None or weight.requires_grad:
            return None, 0
        return lambda x: _frozen_rms_norm(module, x, epsilon), len(weight)
    parts = dict(module.named_children())
    if set(parts) == {"gate_proj", "up_proj", "down_proj", "act_fn"} and _is_silu(parts["act_fn"]):
        width = getattr(getattr(parts["gate_proj"], "base", parts["gate_proj"]), "in_features", 0)
        return lambda x: parts["down_proj"](_gated(parts["gate_proj"], parts["up_proj"], x, recompute_gates)), width
    return None, 0


def _gated(gate: nn.Module, up: nn.Module, x: Tensor, recompute: bool) -> Tensor:
    def gated(x: Tensor) -> Tensor:
        return swiglu(gate(x), up(x))

    if not (recompute and torch.is_grad_enabled()):
        return gated(x)
    kept: Tensor = checkpoint(gated, x, use_reentrant=False)
    return kept


def _frozen_rms_norm(module: nn.Module, x: Tensor, epsilon: float) -> Tensor:
    """The lean function, or the module's own where its weight is one that trains at this moment."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if weight.requires_grad:
        own: Tensor = type(module).forward(module, x)
        return own
    return rms_norm(x, weight, epsilon)


def _is_silu(activation: nn.Module) -> bool:
    x = torch.linspace(-3, 3, 7)
    return torch.equal(activation(x), F.silu(x))


@torch.no_grad()
def _agrees(module: nn.Module, forward: Callable[[Tensor], Tensor], width: int) -> bool:
    """Whether the module's own forward and the lean one give the same on a fixed input (dropout off)."""
    if not width:
        return False
    floats = (tensor for tensor in chain(module.parameters(), module.buffers()) if tensor.is_floating_point())
    parameter = next(floats)  # of quantised projections the buffers
    x = torch.linspace(-2, 2, 2 * width, device=parameter.device).view(1, 2, width).to(parameter.dtype)
    with evaluating(module):
        own, lean = module(x), forward(x)
    tolerance = 4 * torch.finfo(x.dtype).eps
    return bool((own - lean).abs().max() <= tolerance * own.abs().max())
