"""The walk through a decoder's blocks, from ids to logits: one token a row, or a chunk of one text.

    h = before(x)                    normalisation
    q, k, v = h Wᵀ                   one product, plus the adapters' columns
    x += after(attend(q, k, v) Wᵀ)   keys and values written to the cache in place
    x += after((act(g)·u) Wᵀ)        g, u = before(x) Wᵀ

Everything that does not change from step to step is prepared: weights in the quickest layout, the rotation of every
position, what a layer can look back to. Nothing here is believed of a model before `trial.py` has compared it with the
model's own step.

Shapes: R rows (or tokens of a chunk), N either, H width, Q query heads, G key heads, D head width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from loralab.serving.engine.bank import FactorBank, SeenColumns
from loralab.serving.engine.cache import RowCache
from loralab.serving.engine.decoder import rows_of
from loralab.serving.engine.fused.anatomy import Anatomy, Block, Linears
from loralab.serving.engine.fused.attention import Rotation, Turn, attend, attend_among
from loralab.serving.engine.fused.norms import Norm, norm_of
from loralab.serving.engine.fused.products import DenseProduct, PackedDense, rows_are_apart


@dataclass(frozen=True)
class Sight:
    """What the trial found of a layer: how it turns queries and keys, and how far it looks back."""

    rotation: Rotation
    window: int | None
    """Tokens, the newest included; None: all."""


@dataclass(frozen=True)
class Heads:
    """What a layer attends with: queries [N, Q, D], keys and values [N, G, D] of N new tokens."""

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    cap: float | None
    window: int | None
    layer: int


class SharedStep(Protocol):
    """What all layers share in one step, and how they look back."""

    @property
    def seen(self) -> SeenColumns | None:
        """Columns of the bank."""

    @property
    def turns(self) -> dict[Rotation, Turn]:
        """What the heads of these tokens are turned by."""

    def attended(self, heads: Heads) -> Tensor:
        """[N, Q·D], after the keys and values have gone into the cache."""


@dataclass(frozen=True)
class RowsStep:
    """One token of every row."""

    seen: SeenColumns | None
    turns: dict[Rotation, Turn]
    cache: RowCache
    mask_R1N: Tensor | None

    def attended(self, heads: Heads) -> Tensor:
        """See `SharedStep`."""
        layer, mask, window = self.cache.row_layers[heads.layer], self.mask_R1N, heads.window
        keys, values = layer.update(heads.key[:, :, None], heads.value[:, :, None])
        if window is not None and keys.shape[2] > window:
            keys, values = keys[:, :, -window:], values[:, :, -window:]
            mask = None if mask is None else mask[..., -window:]
        return attend(heads.query, keys, values, mask, heads.scale, heads.cap)


@dataclass(frozen=True)
class ChunkStep:
    """Some tokens of one text."""

    seen: SeenColumns | None
    turns: dict[Rotation, Turn]
    cache: DynamicCache

    def attended(self, heads: Heads) -> Tensor:
        """See `SharedStep`."""
        key, value = (each.transpose(0, 1)[None] for each in (heads.key, heads.value))
        keys, values = self.cache.update(key, value, heads.layer)
        return attend_among(heads.query, keys[0], values[0], heads.window, heads.scale, heads.cap)


class AdaptedDense:
    """A product, and beside it the columns of the bank that the rows see."""

    def __init__(self, linears: Linears, bank: FactorBank, packed_for: int | None) -> None:
        modules = linears.modules
        self.product = DenseProduct(modules) if packed_for is None else PackedDense(modules, packed_for)
        self._bank, self._paths = bank, linears.paths

    def __call__(self, x_RI: Tensor, seen: SeenColumns | None) -> Tensor:
        return self._adapted(self.product(x_RI), x_RI, seen)

    def plus(self, residual_RO: Tensor, x_RI: Tensor, seen: SeenColumns | None) -> Tensor:
        """The same and a residual, which may be overwritten."""
        return self._adapted(self.product.plus(residual_RO, x_RI), x_RI, seen)

    def _adapted(self, y_RO: Tensor, x_RI: Tensor, seen: SeenColumns | None) -> Tensor:
        shelf = None if seen is None else self._bank.shelf(self._paths)
        if shelf is not None and seen is not None:
            places = zip(self._paths, self.product.places, strict=True)
            shelf.add_to({path: y_RO[:, place] for path, place in places}, x_RI, seen)
        return y_RO


class FusedBlock:
    """A block of a decoder."""

    def __init__(self, number: int, block: Block, sight: Sight, bank: FactorBank, packed_for: int | None) -> None:
        self._number = number
        self._qkv, self._out, self._gate_up, self._down = (
            AdaptedDense(each, bank, packed_for) for each in (block.qkv, block.out, block.gate_up, block.down)
        )
        self.products = (self._qkv, self._out, self._gate_up, self._down)
        self._before_attention, self._before_gated = _norm(block.before_attention), _norm(block.before_gated)
        self._after_attention, self._after_gated = _norm(block.after_attention), _norm(block.after_gated)
        self._query_norm, self._key_norm = _norm(block.query_norm), _norm(block.key_norm)
        self._heads_are_normed_together = block.query_norm is not None and _width(block.query_norm) != _head(block)
        self._activation = block.activation
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
        gate, up = self._gate_up(h_RH, step.seen).chunk(2, -1)
        return _plus(x_RH, self._activation(gate).mul_(up), self._down, self._after_gated, step.seen)

    def _attention(self, h_RH: Tensor, step: SharedStep) -> Tensor:
        heads = self._qkv(h_RH, step.seen).view(len(h_RH), -1, self._width)
        groups = (heads.shape[1] - self._queries) // 2
        turn = step.turns[self.sight.rotation]
        if self._query_norm is None or self._key_norm is None:
            turned = turn(heads[:, : self._queries + groups])
            query, key = turned[:, : self._queries], turned[:, self._queries :]
        else:
            query = turn(self._normed(self._query_norm, heads[:, : self._queries]))
            key = turn(self._normed(self._key_norm, heads[:, self._queries : self._queries + groups]))
        value = heads[:, self._queries + groups :]
        return step.attended(Heads(query, key, value, self._scale, self._cap, self.sight.window, self._number))

    def _normed(self, norm: Norm, heads: Tensor) -> Tensor:
        return norm(heads.flatten(1)).view(heads.shape) if self._heads_are_normed_together else norm(heads)


class FusedDecoder:
    """The decoder of a known family. Holds references to the model's weights, or a copy of them in another layout: what
    is changed in the model afterwards it does not see."""

    def __init__(
        self,
        anatomy: Anatomy,
        sights: Sequence[Sight],
        bank: FactorBank,
        finish: Callable[[Tensor], Tensor],
        packed_for: int | None,
    ) -> None:
        """`finish` is what the model does with its head's output; `packed_for` rows the weights are copied into another
        layout, None: not."""
        self.bank = bank
        self._embedding, self._norm, self._finish = anatomy.embedding, norm_of(anatomy.norm), finish
        pairs = zip(anatomy.blocks, sights, strict=True)
        self._blocks = [FusedBlock(number, *pair, bank, packed_for) for number, pair in enumerate(pairs)]
        self._head = AdaptedDense(anatomy.head, bank, packed_for)
        self._rotations = {block.sight.rotation for block in self._blocks}
        self._device = anatomy.head.modules[0].weight.device
        self._packed = packed_for is not None
        self._least_rows = 1 if self._rows_are_apart(anatomy) else 2

    @property
    def how(self) -> str:
        """Says what the weights' copy takes."""
        copy = (
            f"weights copied into a quicker layout, {self.memory_bytes / 1e6:,.0f} MB"
            if self._packed
            else "weights as they are"
        )
        return f"decoding: fused blocks ({copy})"

    @property
    def memory_bytes(self) -> int:
        """The second copy of the weights."""
        products = (each for block in self._blocks for each in block.products)
        return sum(each.product.memory_bytes for each in (*products, self._head))

    def logits(self, ids: Sequence[int], adapters: Sequence[str | None], cache: RowCache) -> Tensor:
        """See `Decoder`."""
        numbers = rows_of(len(ids), self._least_rows)
        x_RH = self._embedded([ids[number] for number in numbers])
        step = RowsStep(
            seen=self.bank.seen([adapters[number] for number in numbers]),
            turns=self._turns(cache.positions(numbers, self._device)[:, 0]),
            cache=cache,
            mask_R1N=cache.added_mask(numbers, x_RH),
        )
        return self._scored(self._walked(x_RH, step), step)[: len(ids)]

    def read(self, ids: Sequence[int], adapter: str | None, cache: DynamicCache) -> Tensor:
        """See `Decoder`."""
        first, seen = cache.get_seq_length(), self.bank.seen([adapter])
        positions_T = torch.arange(first, first + len(ids), device=self._device)
        step = ChunkStep(seen=seen, turns=self._turns(positions_T), cache=cache)
        last_NH = self._walked(self._embedded(ids), step)[-self._least_rows :]
        return self._scored(last_NH, step)[-1]

    def _embedded(self, ids: Sequence[int]) -> Tensor:
        x_NH: Tensor = self._embedding(torch.tensor([*ids], device=self._device))
        return x_NH

    def _turns(self, positions_N: Tensor) -> dict[Rotation, Turn]:
        return {rotation: rotation.at(positions_N) for rotation in self._rotations}

    def _walked(self, x_NH: Tensor, step: SharedStep) -> Tensor:
        for block in self._blocks:
            x_NH = block(x_NH, step)
        return x_NH

    def _scored(self, x_NH: Tensor, step: SharedStep) -> Tensor:
        return self._finish(self._head(self._norm(x_NH), step.seen))

    def _rows_are_apart(self, anatomy: Anatomy) -> bool:
        linears = zip(self._blocks[0].products, _linears_of(anatomy.blocks[0]), strict=True)
        pairs = [(each.product, modules[0]) for each, modules in linears] + [
            (self._head.product, anatomy.head.modules[0])
        ]
        return all(rows_are_apart(product, module.in_features, module.weight) for product, module in pairs)


def _linears_of(block: Block) -> list[tuple[nn.Linear, ...]]:
    return [each.modules for each in (block.qkv, block.out, block.gate_up, block.down)]


def _plus(x_RH: Tensor, y_RI: Tensor, product: AdaptedDense, after: Norm | None, seen: SeenColumns | None) -> Tensor:
    """x + after(y Wᵀ)."""
    return product.plus(x_RH, y_RI, seen) if after is None else x_RH + after(product(y_RI, seen))


def _norm(module: nn.Module | None) -> Norm | None:
    return None if module is None else norm_of(module)


def _width(norm: nn.Module) -> int:
    return sum(each.numel() for each in norm.parameters())


def _head(block: Block) -> int:
    return int(block.attention.head_dim)  # type: ignore[arg-type]
