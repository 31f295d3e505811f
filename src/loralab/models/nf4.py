"""A frozen base in four bits: NF4, the number format of QLoRA (arXiv 2305.14314, §3).

    blocks of 64 weights share one number:  w ≈ absmax · LEVELS[code],  absmax = max |w| of the block,
    LEVELS: 16 quantiles of a normal distribution, scaled to [−1, 1]; a code is the nearest of them

The absmax are float32 (0.5 bit a weight) or, double quantised, their distances from their mean in 8 bits with one
float32 for 256 of them (0.127 bit). Products are computed in the precision of their input, from weights that are
unpacked for that moment only, in the backward pass again. bitsandbytes is not used.

Shapes: N weights of a layer, B = ⌈N/64⌉ blocks; O outputs, I inputs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from loralab.errors import NumericsError, TargetError, some
from loralab.machine import give_back_free_memory
from loralab.models.families.aliases import block_paths
from loralab.nn.dense import is_stored_transposed, weight_OI
from loralab.nn.tensors import tensor_of
from loralab.progress import tracked

LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The published code book, as float32 has it. With q(p) the normal quantile and p from 0.9677083 down to ½: the
seven negative ones are −q(p) at even steps of 1/7 of that way, the eight positive ones q(p) at steps of 1/8, all
divided by the largest."""

BLOCK = 64
"""Weights that share an absmax."""
ABSMAX_BLOCK = 256
"""Absmax that share a scale, where they are quantised too."""
UNPACKING_BYTES = 6
"""Of memory for each weight of a layer, while it is unpacked: indices and float32 values."""
_QUANTISED_AT_ONCE = 2**14
"""Blocks: a million weights."""


# -- the format: pure functions --------------------------------------------------------------------------------


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(codes uint8 [32·B], absmax float32 [B]) of a weight of any shape and float dtype, two codes to a byte.

    The last block is filled up with zeros. A block of zeros has absmax 0. A weight half way between two levels gets
    the lower one.
    """
    w_B64 = F.pad(weight.detach().reshape(-1), (0, -weight.numel() % BLOCK)).view(-1, BLOCK)
    at_once = len(w_B64) if w_B64.is_meta else _QUANTISED_AT_ONCE
    parts = [_quantise_blocks(part) for part in torch.split(w_B64, at_once)]
    return torch.cat([codes for codes, _ in parts]), torch.cat([absmax for _, absmax in parts])


def dequantise(codes: Tensor, absmax_B: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight of this shape: absmax · level in float32, rounded once to `dtype`."""
    pairs = _pairs_of_levels(codes.device).index_select(0, codes.int())  # one look-up for two weights
    w_B64 = pairs.view(torch.float32).view(-1, BLOCK).mul_(absmax_B[:, None])
    return w_B64.to(dtype).view(-1)[: torch.Size(shape).numel()].view(shape)


def quantise_absmax(absmax_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(codes int8 [B], scales float32 [⌈B/256⌉], mean float32 []): absmax ≈ mean + scale · code, off by scale/2 at
    most, where scale = the largest |absmax − mean| of 256, divided by 127.
    """
    mean = absmax_B.mean()
    distance = F.pad(absmax_B - mean, (0, -len(absmax_B) % ABSMAX_BLOCK)).view(-1, ABSMAX_BLOCK)
    scales = distance.abs().amax(1) / 127
    codes = (distance / _not_zero(scales)[:, None]).round().to(torch.int8)
    return codes.view(-1)[: len(absmax_B)].clone(), scales, mean


def dequantise_absmax(codes_B: Tensor, scales: Tensor, mean: Tensor) -> Tensor:
    """The absmax [B], float32; none is negative."""
    each = scales.repeat_interleave(ABSMAX_BLOCK)[: len(codes_B)]
    return (codes_B * each).add_(mean).clamp_(min=0)


def _quantise_blocks(w_B64: Tensor) -> tuple[Tensor, Tensor]:
    wide = w_B64.float()
    absmax = wide.abs().amax(1)
    codes = torch.bucketize(wide / _not_zero(absmax)[:, None], _midpoints(wide.device), out_int32=True)
    codes = codes.to(torch.uint8).view(-1, 2)
    return codes[:, 0] << 4 | codes[:, 1], absmax


def _not_zero(divisor: Tensor) -> Tensor:
    return torch.where(divisor == 0, 1.0, divisor)


@cache
def _midpoints(device: torch.device) -> Tensor:
    levels = torch.tensor(LEVELS, dtype=torch.float64, device="cpu")
    return ((levels[1:] + levels[:-1]) / 2).float().to(device)


@cache
def _pairs_of_levels(device: torch.device) -> Tensor:
    """[256]: for each byte the float32 of its two codes, side by side in one int64."""
    levels = torch.tensor(LEVELS, dtype=torch.float32, device="cpu")
    pairs = torch.cartesian_prod(levels, levels).contiguous()
    return pairs.view(torch.int64).flatten().to(device)


# -- the layer -------------------------------------------------------------------------------------------------


class _Product(torch.autograd.Function):
    """h = x·Wᵀ + bias with W unpacked in both passes: of x, W and h nothing is kept.   dx = g·W,  dbias = Σ g."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias_O: Tensor | None, layer: "QuantizedLinear") -> Tensor:
        ctx.layer, ctx.x_dtype = layer, x.dtype
        ctx.bias_dtype = None if bias_O is None else bias_O.dtype
        return F.linear(x, layer.dequantised(x.dtype), None if bias_O is None else bias_O.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        need_x, need_bias, _ = ctx.needs_input_grad
        dx = (grad @ ctx.layer.dequantised(grad.dtype)).to(ctx.x_dtype) if need_x else None
        dbias = grad.reshape(-1, grad.shape[-1]).sum(0).to(ctx.bias_dtype) if need_bias else None
        return dx, dbias, None


class QuantizedLinear(nn.Module):
    """A dense layer whose weight [O, I] is frozen in NF4, in blocks along its rows; the bias stays as it is.

    One that stands for a Conv1D (GPT-2), which stores [I, O], has its weight the other way round, as nn.Linear does.
    With a `principal` part (B [O, R], A [R, I]) only the residual W − B·A is in NF4, and B·A is kept beside it in
    float32 (QPiSSA, arXiv 2404.02948): the residual has no large directions, so its error is smaller.
    """

    why_not_merged = "in four bits (nf4), which cannot hold the sum"
    """Why no update can be merged into the weight."""

    def __init__(
        self,
        weight_OI: Tensor,
        bias: nn.Parameter | None = None,
        *,
        double: bool = False,
        principal: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_OI.shape
        self.stands_for = "Linear"
        """The class of the layer that it replaces."""
        self.origin: object = None
        """What was remembered of the weight before it was quantised."""
        self.dtype = weight_OI.dtype
        """Of `weight` when it is asked for, which is that of the model."""
        B, A = (None, None) if principal is None else (each.float() for each in principal)
        self.register_buffer("principal_B", B)
        self.register_buffer("principal_A", A)
        codes, absmax = quantise(weight_OI if B is None or A is None else weight_OI.float() - B @ A)
        self.register_buffer("codes", codes)
        if double:
            for name, tensor in zip(("absmax", "absmax_scales", "absmax_mean"), quantise_absmax(absmax), strict=True):
                self.register_buffer(name, tensor)
        else:
            self.register_buffer("absmax", absmax)
        self.register_parameter("bias", bias)

    @classmethod
    def of(
        cls,
        layer: nn.Module,
        *,
        double: bool = False,
        remember: Callable[[Tensor], object] | None = None,
        principal: tuple[Tensor, Tensor] | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """In place of an nn.Linear or a Conv1D, whose bias it takes over; of its weight rounded to `dtype`."""
        weight = layer.get_parameter("weight").detach()
        made = cls(weight_OI(layer).to(dtype), layer._parameters["bias"], double=double, principal=principal)
        made.stands_for = type(layer).__name__
        made.origin = remember(weight) if remember is not None else None
        return made.train(layer.training)

    @property
    def weight(self) -> Tensor:
        """The dequantised weight [O, I], made anew whenever it is asked for."""
        return self.dequantised(self.dtype)

    @property
    def weights(self) -> int:
        """N, how many there are."""
        return self.out_features * self.in_features

    @property
    def packed_bytes(self) -> int:
        """Of memory that the weight takes."""
        packed = (tensor for name, tensor in chain(self.named_buffers(), self.named_parameters()) if name != "bias")
        return sum(tensor.numel() * tensor.element_size() for tensor in packed)

    def share_out(self, part: Callable[[Tensor], Tensor]) -> None:
        """Its largest tensors become frozen parameters, of each of which this process holds a `part`."""
        for name in ("codes", "absmax"):
            packed = self._buffers.pop(name)
            assert packed is not None
            self.register_parameter(name, nn.Parameter(part(packed), requires_grad=False))

    def _packed(self, name: str) -> Tensor:
        """One of the packed tensors, whole: gathered from processes that hold parts, all of which must ask."""
        packed: Any = getattr(self, name)
        whole: Tensor = packed.full_tensor() if hasattr(packed, "full_tensor") else packed
        return whole

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """The weight [O, I] in this precision."""
        codes, absmax = self._packed("codes"), self._packed("absmax")
        if not absmax.is_floating_point():
            absmax = dequantise_absmax(absmax, self.get_buffer("absmax_scales"), self.get_buffer("absmax_mean"))
        shape = self.out_features, self.in_features
        if self.principal is None:
            return dequantise(codes, absmax, shape, dtype)
        B, A = self.principal
        return dequantise(codes, absmax, shape).addmm_(B, A).to(dtype)

    @property
    def principal(self) -> tuple[Tensor, Tensor] | None:
        """(B [O, R], A [R, I]) of the part that is kept in float32, if there is one."""
        B, A = self._buffers["principal_B"], self._buffers["principal_A"]
        return None if B is None or A is None else (B, A)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] → [..., O], in the precision of x."""
        h: Tensor = _Product.apply(x, self.bias, self)  # type: ignore[no-untyped-call]
        return h

    def extra_repr(self) -> str:
        """What torch prints of it."""
        has_bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={has_bias}, nf4"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the model; of a new precision only the bias and `weight` take notice."""
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=tensor_of(self, "codes").device)).dtype
        before = dict(self.named_buffers())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            moved = self.get_buffer(name)
            if moved.dtype != buffer.dtype:
                setattr(self, name, buffer.to(moved.device))
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.origin = None  # other values may come
        super()._load_from_state_dict(*args, **kwargs)


# -- a whole model ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quantised:
    """What quantising a model did."""

    layers: int
    weights: int
    """Of these layers."""
    bytes_before: int
    """Of all the model's tensors."""
    bytes_after: int

    def __str__(self) -> str:
        share = self.bytes_after / max(1, self.bytes_before)
        return (
            f"nf4: {self.weights:,} weights of {self.layers} dense layers in the blocks have 4 bits; the base takes "
            f"{self.bytes_after / 1e6:,.1f} MB instead of {self.bytes_before / 1e6:,.1f} ({share:.0%})"
        )


Principal = Callable[[str, Tensor], tuple[Tensor, Tensor] | None]
"""(path of a layer, its weight [O, I]) → the part B, A of it to keep in float32, or None."""


def quantize_model(
    model: nn.Module,
    *,
    double: bool = False,
    remember: Callable[[Tensor], object] | None = None,
    principal: Principal | None = None,
    dtype: torch.dtype | None = None,
    part: Callable[[Tensor], Tensor] | None = None,
) -> Quantised:
    """Replace every nn.Linear and Conv1D inside the model's blocks by a `QuantizedLinear`, one after another.

    What stays: embeddings and output heads (looked up, often tied, and every error of theirs goes straight into the
    logits), heads of classifiers (they start at random and train in full), poolers and whatever else is outside the
    blocks, norms and biases (small), experts kept as one raw tensor, and nn.MultiheadAttention (both read their
    weights themselves). `remember` is called with each weight before it is quantised; what it returns becomes the
    layer's `origin`; `principal` may keep a part of a weight in float32. Weights are rounded to `dtype` first, and of
    each packed layer this process keeps no more than a `part`, where these are given. Raises TargetError where no
    blocks or no dense layers in them are known, NumericsError naming the layers whose weights are not finite; the
    model is then as it was.
    """
    places = list(_dense_places(model))
    if not places:
        raise TargetError(
            f"nf4: the blocks of {type(model).__name__} are not known, or they hold no "
            "dense layers that could be quantised; load it without quantize"
        )
    _refuse_not_finite(places)
    before = _tensor_bytes(model)
    replaced: dict[int, QuantizedLinear] = {}
    for path, parent, name in tracked(places, "layers quantised"):
        layer = parent._modules[name]
        assert layer is not None
        directions = principal(path, weight_OI(layer)) if principal is not None and id(layer) not in replaced else None
        made = replaced.get(id(layer))
        if made is None:
            made = QuantizedLinear.of(layer, double=double, remember=remember, principal=directions, dtype=dtype)
            if part is not None:
                made.share_out(part)
        replaced[id(layer)] = made
        parent._modules[name] = made
    del layer
    _let_go_of_the_file(model)
    give_back_free_memory()
    weights = sum(layer.weights for layer in replaced.values())
    return Quantised(len(replaced), weights, before, _tensor_bytes(model))


def quantized_layers(model: nn.Module) -> Iterator[QuantizedLinear]:
    """Those of the model, each once."""
    return (module for module in model.modules() if isinstance(module, QuantizedLinear))


def _dense_places(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(path, parent, attribute) of every dense layer in the blocks; a shared one has several."""
    blocks = tuple(f"{path}." for path in block_paths(model))
    for path, parent in model.named_modules(remove_duplicate=False):
        for name, child in parent._modules.items():
            inside = f"{path}.{name}".startswith(blocks) if blocks else False
            if inside and child is not None and (type(child) is nn.Linear or is_stored_transposed(child)):
                yield f"{path}.{name}", parent, name


def _refuse_not_finite(places: list[tuple[str, nn.Module, str]]) -> None:
    spoilt = [path for path, parent, name in places if not _is_finite(parent.get_submodule(name))]
    if spoilt:
        raise NumericsError(f"nf4: weights are NaN or infinite in {some(spoilt, 5)}; repair the checkpoint")


def _is_finite(layer: nn.Module) -> bool:
    weight = layer.get_parameter("weight")
    return weight.is_meta or bool(torch.isfinite(weight.detach().abs().amax()))


def _let_go_of_the_file(model: nn.Module) -> None:
    """Copy the parameters that stay: the checkpoint is mapped into memory while one tensor of it is in use.

    Of SmolLM2 in bfloat16 that file is 269 MB, and the quantised model 116. They stay the same objects.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def _tensor_bytes(model: nn.Module) -> int:
    """Of all parameters and buffers, shared ones once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in chain(model.parameters(), model.buffers()))
