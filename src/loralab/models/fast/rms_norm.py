"""RMSNorm that keeps x and ρ for the backward pass, where transformers' own keeps a float32 copy of x or two.

    x̂ = x·ρ,  ρ = (mean x² + ε)^−½,        y = w·x̂ (Llama, Qwen, T5)   or   y = (1 + w)·x̂ (Gemma)

In 16 bits some families round x̂ before they multiply and some after. Which of these a module computes is found by
running it beside each; its class and its name say nothing here.

Shapes: H width; all other dimensions lead.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from loralab.models.fast.trial import Forward, agrees, numbers_for, own_forward

EPSILONS = ("variance_epsilon", "eps", "epsilon")
"""What the constant ε is called."""
SCALES = (1.0, 1e-3, 30.0)
"""Of the rows of a trial: among small numbers a wrong ε shows."""


@dataclass(frozen=True)
class Gain:
    """How a weight becomes what x̂ is multiplied by."""

    offset: float = 0.0
    """Added to the weight: 1 in Gemma."""
    rounded_last: bool = False
    """The product is formed in float32 and rounded once; else x̂ is rounded first."""

    def of(self, weight_H: Tensor) -> Tensor:
        """In the dtype that the product is formed in."""
        gain = weight_H.float() if self.rounded_last and weight_H.dtype != torch.float64 else weight_H
        return gain + self.offset if self.offset else gain


GAINS = (Gain(), Gain(rounded_last=True), Gain(1.0, rounded_last=True), Gain(1.0))


def rms_norm(x: Tensor, weight_H: Tensor, epsilon: float, gain: Gain = GAINS[0]) -> Tensor:
    """y over the last dimension, in float32 inside; differentiable in x alone (the weight is frozen)."""
    y: Tensor = _RMSNorm.apply(x, gain.of(weight_H), epsilon, gain.rounded_last)  # type: ignore[no-untyped-call]
    return y


def normalised(x: Tensor, gain_H: Tensor, epsilon: float, rounded_last: bool) -> tuple[Tensor, Tensor]:
    """(y, ρ), for a gain in the dtype that the product is formed in."""
    wide = x.float() if x.dtype != torch.float64 else x
    rho = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
    normal = wide * rho if wide is x else wide.mul_(rho)
    return normal.mul_(gain_H).to(x.dtype) if rounded_last else normal.to(x.dtype).mul_(gain_H), rho


def lean_norm(module: nn.Module) -> Forward | None:
    """The lean forward of a module that computes an RMSNorm with a frozen weight; None for any other."""
    weight, epsilon = _frozen_weight(module), epsilon_of(module)
    if weight is None or epsilon is None:
        return None
    x = rows_for_norm(module, weight)
    for gain in GAINS:
        forward = _forward(module, epsilon, gain)
        if agrees(module, forward, x):
            return forward
    return None


def _forward(module: nn.Module, epsilon: float, gain: Gain) -> Forward:
    def forward(x: Tensor, *others: Any, **named: Any) -> Any:
        weight = module.weight
        if others or named or not isinstance(weight, Tensor) or weight.requires_grad:  # one that trains at this moment
            return own_forward(module)(x, *others, **named)
        return rms_norm(x, weight, epsilon, gain)

    return forward


def _frozen_weight(module: nn.Module) -> Tensor | None:
    """The only parameter of a module without children, if it is a frozen vector."""
    parameters = dict(module.named_parameters())
    weight = parameters.get("weight")
    if len(parameters) != 1 or weight is None or next(module.children(), None) is not None:
        return None
    return weight if weight.ndim == 1 and weight.is_floating_point() and not weight.requires_grad else None


def rows_for_norm(module: nn.Module, weight_H: Tensor) -> Tensor:
    """[N, H] of several sizes."""
    return numbers_for(module, len(SCALES), len(weight_H)) * torch.tensor(SCALES).to(weight_H).unsqueeze(1)


def epsilon_of(module: nn.Module) -> float | None:
    """The constant ε, under any of its names."""
    named = (getattr(module, name, None) for name in EPSILONS)
    return next((value for value in named if isinstance(value, float)), None)


class _RMSNorm(torch.autograd.Function):
    """Backward, with g = gain∘∂/∂y:   ∂x = ρ·(g − x̂·mean(g∘x̂))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain_H: Tensor, epsilon: float, rounded_last: bool) -> Tensor:
        y, rho = normalised(x, gain_H, epsilon, rounded_last)
        ctx.save_for_backward(x, rho, gain_H)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, rho, gain_H = ctx.saved_tensors
        normal = x * rho
        g = grad * gain_H
        along = torch.linalg.vecdot(g.to(normal.dtype), normal).unsqueeze(-1).div_(-x.shape[-1])
        return normal.mul_(along).add_(g).mul_(rho).to(x.dtype), None, None, None
