"""The normalisation of a row, in few passes, found by trial to be what the module computes.

An RMSNorm that is formed in float32 and rounded once; a module that is no such one is called as it is.

Shapes: N rows, H width.
"""

from collections.abc import Callable

from torch import Tensor, nn

from loralab.models.fast.rms_norm import GAINS, epsilon_of, normalised, rows_for_norm
from loralab.nn.trial import agree, output_of
from loralab.serving.engine.native.norm import NormKernel

Norm = Callable[[Tensor], Tensor]


def norm_of(module: nn.Module, kernel: NormKernel | None) -> Norm:
    """What computes the module's output, quicker where it is known how, by the kernel where there is one."""
    weight, epsilon = getattr(module, "weight", None), epsilon_of(module)
    if not isinstance(weight, Tensor) or weight.dim() != 1 or epsilon is None or module._forward_hooks:
        return module
    x_NH = rows_for_norm(module, weight)
    own = output_of(module, x_NH, module)
    candidates = [_rms_norm(gain.of(weight.detach()), epsilon, kernel) for gain in GAINS if gain.rounded_last]
    return next((each for each in candidates if agree(own, each(x_NH))), module)


def _rms_norm(gain_H: Tensor, epsilon: float, kernel: NormKernel | None) -> Norm:
    def norm(x_NH: Tensor) -> Tensor:
        if kernel is not None:
            return kernel(x_NH, gain_H, epsilon)
        return normalised(x_NH, gain_H, epsilon, rounded_last=True)[0]

    return norm
