"""Activations that keep their input and nothing else for the backward pass.

GPT-2's gelu ("gelu_new") is seven operations in transformers, which keep four tensors; torch's kernel is one, and keeps
one. Which function a module computes is found by running it, and so is what it keeps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loralab.models.fast.trial import Forward
from loralab.nn.trial import output_of

_ENDS, _POINTS = 8.0, 161
_QUICK = 1.702
_ROUNDINGS = 40
"""Of 1, by which two ways of writing one function may differ for numbers as large as the trial's."""


@dataclass(frozen=True)
class Activation:
    """f, and its derivative as one operation."""

    name: str
    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]
    """(∂/∂f(x), x) -> ∂/∂x."""


def _quick_gelu(x: Tensor) -> Tensor:
    return F.silu(x * _QUICK).div_(_QUICK)


_aten = torch.ops.aten
ACTIVATIONS = (
    Activation("silu", F.silu, _aten.silu_backward),
    Activation("gelu", F.gelu, _aten.gelu_backward),
    Activation("gelu_tanh", partial(F.gelu, approximate="tanh"), partial(_aten.gelu_backward, approximate="tanh")),
    Activation("relu", F.relu, lambda grad, x: _aten.threshold_backward(grad, x, 0)),
    Activation("quick_gelu", _quick_gelu, lambda grad, x: _aten.silu_backward(grad, x * _QUICK)),
)


def activation_of(module: nn.Module) -> Activation | None:
    """The function that a module without tensors applies to every number; None where it is none of these."""
    x = torch.linspace(-_ENDS, _ENDS, _POINTS)
    own = output_of(module, x, module)
    if not isinstance(own, Tensor) or own.shape != x.shape:
        return None
    most = _ROUNDINGS * torch.finfo(x.dtype).eps
    return next((each for each in ACTIVATIONS if bool(((each.forward(x) - own).abs() <= most).all())), None)


def lean_activation(module: nn.Module) -> Forward | None:
    """The lean forward of an activation that keeps more than its input; None for one that does not, or is not known."""
    if any(True for _ in module.children()) or any(True for _ in module.parameters()) or list(module.buffers()):
        return None
    known = activation_of(module)
    if known is None or _tensors_kept(module) <= 1:
        return None
    return known.forward


def _tensors_kept(module: nn.Module) -> int:
    """How many tensors as large as its input the module keeps for the backward pass."""
    x, kept = torch.linspace(-1, 1, _POINTS).requires_grad_(), set[int]()

    def remember(tensor: Tensor) -> Tensor:
        if tensor.numel() >= _POINTS:
            kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    held: list[Any] = []
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        held.append(module(x))
    return len(kept)
