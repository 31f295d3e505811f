"""A block of a decoder: its products with the adapters beside them, and what lies between.

Shapes: R rows (or tokens), H width, I inputs, O outputs, F inner width of the gated layer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loralab.serving.engine.bank import FactorBank, SeenRuns
from loralab.serving.engine.fused.anatomy import Block, Linears
from loralab.serving.engine.fused.attention import Rotation
from loralab.serving.engine.fused.gates import Gate, gate_of
from loralab.serving.engine.fused.norms import Norm, norm_of
from loralab.serving.engine.fused.products import DenseProduct, PackedDense
from loralab.serving.engine.fused.steps import Heads, SharedStep
from loralab.serving.engine.native.kernels import Kernels


@dataclass(frozen=True)
class Sight:
    """What the trial found of a layer: how it turns queries and keys, and how far it looks back."""

    rotation: Rotation
    window: int | None
    """Tokens, the newest included; None: all."""


@dataclass(frozen=True)
class Means:
    """What a decoder computes by."""

    bank: FactorBank
    kernels: Kernels | str
    """What is compiled; or why nothing is."""
    packed_for: int | None
    """Rows for which the weights are copied into another layout; None: they are not."""

    @property
    def compiled(self) -> Kernels | None:
        """The kernels, where there are any."""
        return self.kernels if isinstance(self.kernels, Kernels) else None

    def gate(self, activation: nn.Module) -> Gate:
        """What computes act(g)·u."""
        return gate_of(activation, self.compiled.gate if self.compiled else None)

    def norm(self, module: nn.Module | None) -> Norm | None:
        """What computes a norm, where there is one."""
        return None if module is None else norm_of(module, self.compiled.normalise if self.compiled else None)


class AdaptedDense:
    """A product, and beside it the columns of the bank that the rows see."""

    def __init__(self, linears: Linears, means: Means) -> None:
        modules, rows = linears.modules, means.packed_for
        self.product = DenseProduct(modules) if rows is None else PackedDense(modules, rows)
        self._bank, self._paths = means.bank, linears.paths
        self._places = dict(zip(linears.paths, self.product.places, strict=True))

    def __call__(self, x_RI: Tensor, seen: SeenRuns) -> Tensor:
        return self._adapted(self.product(x_RI), x_RI, seen)

    def plus(self, residual_RO: Tensor, x_RI: Tensor, seen: SeenRuns) -> Tensor:
        """The same and a residual, which may be overwritten."""
        return self._adapted(self.product.plus(residual_RO, x_RI), x_RI, seen)

    def _adapted(self, y_RO: Tensor, x_RI: Tensor, seen: SeenRuns) -> Tensor:
        shelf = self._bank.shelf(self._paths) if seen.parts else None
        if shelf is not None:
            shelf.add(y_RO, self._places, x_RI, seen)
        return y_RO


class FusedBlock:
    """A block of a decoder."""

    def __init__(self, number: int, block: Block, sight: Sight, means: Means) -> None:
        self._number = number
        self._qkv, self._out, self._gate_up, self._down = (
            AdaptedDense(each, means) for each in (block.qkv, block.out, block.gate_up, block.down)
        )
        self.products = (self._qkv, self._out, self._gate_up, self._down)
        self._before_attention, self._before_gated = map(means.norm, (block.before_attention, block.before_gated))
        self._after_attention, self._after_gated = map(means.norm, (block.after_attention, block.after_gated))
        self._query_norm, self._key_norm = map(means.norm, (block.query_norm, block.key_norm))
        self._heads_are_normed_together = block.query_norm is not None and _width(block.query_norm) != _head(block)
        self._gate = means.gate(block.activation)
        self._width = _head(block)
        self._queries = block.out.modules[0].in_features // self._width
        self._scale = float(block.attention.scaling)  # type: ignore[arg-type]
        self._cap: float | None = getattr(block.attention, "attn_logit_softcapping", None)
        self.sight = sight

    def __call__(self, x_RH: Tensor, step: SharedStep) -> Tensor:
        h_RH = x_RH if self._before_attention is None else self._before_attention(x_RH)
        o_RI = self._attention(h_RH, step)
        x_RH = _plus(x_RH, o_RI, self._out, self._after_attention, step.seen)
        h_RH = x_RH if self._before_gated is None else self._before_gated(x_RH)
        m_RF = self._gate(self._gate_up(h_RH, step.seen))
        return _plus(x_RH, m_RF, self._down, self._after_gated, step.seen)

    def _attention(self, h_RH: Tensor, step: SharedStep) -> Tensor:
        heads = self._qkv(h_RH, step.seen).view(len(h_RH), -1, self._width)
        groups = (heads.shape[1] - self._queries) // 2
        query, key, value = torch.split(heads, [self._queries, groups, groups], 1)
        if self._query_norm is not None and self._key_norm is not None:
            query, key = self._normed(self._query_norm, query), self._normed(self._key_norm, key)
        sight = self.sight
        return step.attended(
            Heads(query, key, value, sight.rotation, self._scale, self._cap, sight.window, self._number)
        )

    def _normed(self, norm: Norm, heads: Tensor) -> Tensor:
        return norm(heads.flatten(1)).view(heads.shape) if self._heads_are_normed_together else norm(heads)


def _plus(x_RH: Tensor, y_RI: Tensor, product: AdaptedDense, after: Norm | None, seen: SeenRuns) -> Tensor:
    """x + after(y Wᵀ)."""
    return product.plus(x_RH, y_RI, seen) if after is None else x_RH + after(product(y_RI, seen))


def _width(norm: nn.Module) -> int:
    return sum(each.numel() for each in norm.parameters())


def _head(block: Block) -> int:
    return int(block.attention.head_dim)  # type: ignore[arg-type]
