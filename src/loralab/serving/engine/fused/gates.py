"""The middle of a gated layer, act(g)·u, where a trial shows which curve the activation's module draws.

The trial is in float32 whatever the model is in: roundings of bfloat16 hide what tells GELU by tanh from GELU by erf.

Shapes: N rows, F width of the layer.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from loralab.nn.trial import output_of
from loralab.serving.engine.native.gate import SILU, TANH_GELU, Curve, GateKernel

Gate = Callable[[Tensor], Tensor]
"""From g and u side by side, [N, 2·F]."""
TRIED = torch.linspace(-8, 8, 65)


def gate_of(activation: nn.Module, kernel: GateKernel | None) -> Gate:
    """What computes it, by the kernel where there is one and the activation is known."""
    curve = None if kernel is None else _curve_of(activation)
    if kernel is None or curve is None:
        return lambda gate_up_NF: _by_torch(activation, gate_up_NF)
    return lambda gate_up_NF: kernel(gate_up_NF, curve)


def _by_torch(activation: nn.Module, gate_up_NF: Tensor) -> Tensor:
    g, u = gate_up_NF.chunk(2, -1)
    y: Tensor = activation(g)
    return y.mul_(u)


def _curve_of(activation: nn.Module) -> Curve | None:
    """That of the activation, if it is one that the kernel draws."""
    own = output_of(activation, TRIED.clone(), activation)
    for a, b in (SILU, TANH_GELU):
        drawn = TRIED * torch.sigmoid(a * TRIED + b * TRIED**3)
        if isinstance(own, Tensor) and own.dtype == drawn.dtype and torch.allclose(own, drawn, rtol=1e-5, atol=1e-6):
            return a, b
    return None
