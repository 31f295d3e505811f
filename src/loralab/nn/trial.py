"""What a module computes, found by running it on a few numbers: attributes alone do not say.

A subclass of nn.Linear may put an activation behind the product, a foreign module with `in_features` may store its
weight [I, O], an embedding may count positions instead of looking up what it is given. A class of torch's own with
its own forward is believed; anything else is run once, in evaluation mode, without gradients and with hooks and all.

Shapes: N rows, I inputs, O outputs, V vocabulary.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loralab.nn.mode import evaluating

UNRUNNABLE = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError)
"""What a module raises that is called with what it does not take."""
_ROWS = 3
_CONVOLUTIONS: dict[int, tuple[type[nn.Module], Callable[..., Tensor]]] = {
    3: (nn.Conv1d, F.conv1d),
    4: (nn.Conv2d, F.conv2d),
    5: (nn.Conv3d, F.conv3d),
}


def is_untouched(module: nn.Module) -> bool:
    """Whether the module is torch's own class (or transformers' Conv1D) that holds its weight, without hooks and
    without another forward put on it: nothing but the weight then decides what it computes."""
    known = type(module) in (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d) or is_transformers_conv1d(module)
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return known and not hooks and "forward" not in module.__dict__ and "weight" in module._parameters


def is_transformers_conv1d(module: nn.Module) -> bool:
    """GPT-2's dense layer, whose weight is [I, O]."""
    return type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers.")


def gives_rows(module: nn.Module, in_features: int, out_features: int) -> bool:
    """Whether the module maps [N, I] to a tensor [N, O]: a router that returns a tuple does not."""
    if _runs(module, nn.Linear) or not _can_be_run(module):
        return True
    output = _output(module, _numbers(module, _ROWS, in_features))
    return isinstance(output, Tensor) and output.shape == (_ROWS, out_features)


def is_product(module: nn.Module, in_features: int, out_features: int, stored_transposed: bool = False) -> bool:
    """Whether the module computes x·Wᵀ + bias with its own `weight` [O, I] (x·W + bias with [I, O] if transposed)."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    stored = (in_features, out_features) if stored_transposed else (out_features, in_features)
    if not isinstance(weight, Tensor) or weight.shape != stored:
        return False
    if not _can_be_run(module):
        return not stored_transposed
    x_NI = _numbers(module, _ROWS, in_features)
    expected = F.linear(x_NI, weight.T if stored_transposed else weight, bias if isinstance(bias, Tensor) else None)
    return agree(_output(module, x_NI), expected)


def is_convolution(module: nn.Module) -> bool:
    """Whether the module computes the convolution that its weight and its attributes say."""
    cls, convolve = _CONVOLUTIONS[cast(Tensor, module.weight).dim()]
    own = type(module)._conv_forward is getattr(cls, "_conv_forward")  # type: ignore[attr-defined]  # noqa: B009
    if (own and _runs(module, cls)) or not _can_be_run(module):
        return True
    x = convolution_input(module)
    return agree(_output(module, x), convolved(cast(nn.Conv2d, module), convolve, x))


def convolved(conv: nn.Conv2d, convolve: Callable[..., Tensor], x: Tensor) -> Tensor:
    """What a convolution of torch's own gives (the three classes have the same attributes)."""
    padding: Any = conv.padding
    if conv.padding_mode != "zeros":
        x, padding = F.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode), 0
    return convolve(x, conv.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)


def convolution_input(module: nn.Module) -> Tensor:
    """[2, I, sizes] for a convolution: a few of its strides in each direction."""
    conv = cast(nn.Conv2d, module)
    reach = zip(conv.kernel_size, conv.dilation, conv.stride, strict=True)
    sizes = [dilation * (kernel - 1) + 1 + 2 * stride for kernel, dilation, stride in reach]
    return _numbers(module, 2, conv.in_channels, *sizes)


def is_lookup(module: nn.Module) -> bool:
    """Whether an embedding looks its first argument up in its weight (and scales it, where it has an `embed_scale`)."""
    if _runs(module, nn.Embedding) or not _can_be_run(module) or getattr(module, "max_norm", None) is not None:
        return True
    weight = cast(Tensor, module.weight)
    tokens = tokens_for(module)
    return agree(_output(module, tokens), embedding_scale(module, weight) * F.embedding(tokens, weight))


def tokens_for(module: nn.Module) -> Tensor:
    """[1, N] indices into an embedding, neither rising nor all different."""
    weight = cast(Tensor, module.weight)
    return torch.tensor([[5, 2, 2, 7, 0, 3]], device=weight.device) % weight.shape[0]


def rows_for(module: nn.Module, in_features: int) -> Tensor:
    """[N, I] for a dense layer."""
    return _numbers(module, _ROWS, in_features)


def embedding_scale(base: nn.Module, like: Tensor) -> Tensor | float:
    """The factor that scaled embeddings (Gemma's) apply to every row they look up."""
    scale = getattr(base, "embed_scale", 1.0)
    return scale.to(like.dtype) if isinstance(scale, Tensor) else float(scale)


def agree(output: object, expected: Tensor) -> bool:
    """Whether this is the tensor that was expected, but for rounding."""
    if not isinstance(output, Tensor) or output.shape != expected.shape:
        return False
    exact = torch.finfo(expected.dtype).eps < 1e-6 and output.dtype == expected.dtype
    difference = torch.linalg.vector_norm(output.double() - expected.double())
    return bool(difference <= (1e-4 if exact else 3e-2) * torch.linalg.vector_norm(expected.double()))


def output_of(call: Callable[[Tensor], object], x: Tensor, *modules: nn.Module) -> object:
    """What is computed of x, with these modules in evaluation mode; None where x is not taken."""
    with ExitStack() as modes, torch.no_grad():
        for module in modules:
            modes.enter_context(evaluating(module))
        try:
            return call(x)
        except UNRUNNABLE:
            return None


def _runs(module: nn.Module, cls: type[nn.Module]) -> bool:
    return type(module).forward is cls.forward and "forward" not in module.__dict__


def _can_be_run(module: nn.Module) -> bool:
    """Not where the weight is nowhere yet, or packed by quantisation."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.is_floating_point() and not weight.is_meta and weight.itemsize > 1


def _numbers(module: nn.Module, *shape: int) -> Tensor:
    weight = cast(Tensor, module.weight)
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return drawn.to(weight.device, weight.dtype)


def _output(module: nn.Module, x: Tensor) -> object:
    return output_of(module, x, module)
