"""The walk through a decoder's blocks, from ids to logits: one token a row, or chunks of some texts one after another.

    h = before(x)                    normalisation
    q, k, v = h Wᵀ                   one product, plus the adapters' columns
    x += after(attend(q, k, v) Wᵀ)   keys and values written to the cache in place
    x += after((act(g)·u) Wᵀ)        g, u = before(x) Wᵀ

Everything that does not change from step to step is prepared: weights in the quickest layout, the rotation of every
position, what a layer can look back to. Nothing here is believed of a model before `trial.py` has compared it with the
model's own step.

Shapes: R rows, K texts, T tokens of a chunk, N rows or the tokens of all chunks, H width, Q query heads, G key heads, D
head width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from loralab.serving.engine.bank import FactorBank, Pairs, SeenColumns, SeenRuns
from loralab.serving.engine.cache import RowCache
from loralab.serving.engine.decoder import Chunk, rows_of
from loralab.serving.engine.fused.anatomy import Anatomy, Block, Linears
from loralab.serving.engine.fused.attention import Rotation, Turn, attend, attend_among
from loralab.serving.engine.fused.gates import Gate, gate_of
from loralab.serving.engine.fused.norms import Norm, norm_of
from loralab.serving.engine.fused.products import RUNS, DenseProduct, PackedDense, rows_apart
from loralab.serving.engine.native.attention import AttentionKernel
from loralab.serving.engine.native.kernels import Kernels

DEFAULT = "what speaks on the model"
"""The key of its pairs in the bank; adapters are keyed by hashes."""
TEXTS = (2, 3, 7, 16, 33, 64, 131)
"""Tokens of the texts that are tried together."""
ROWS, HEAD_ROWS = 131, 48
"""Rows of a product, and of the head's, that are tried together."""


@dataclass(frozen=True)
class Sight:
    """What the trial found of a layer: how it turns queries and keys, and how far it looks back."""

    rotation: Rotation
    window: int | None
    """Tokens, the newest included; None: all."""


@dataclass(frozen=True)
class Heads:
    """What a layer attends with: queries [N, Q, D], keys and values [N, G, D] of new tokens, not turned yet."""

    query: Tensor
    key: Tensor
    value: Tensor
    rotation: Rotation
    scale: float
    cap: float | None
    window: int | None
    layer: int

    def of(self, place: slice) -> "Heads":
        """Those of some of the tokens."""
        return replace(self, query=self.query[place], key=self.key[place], value=self.value[place])

    def turned(self, turn: Turn) -> "Heads":
        """By where each token is."""
        return replace(self, query=turn(self.query), key=turn(self.key))


class SharedStep(Protocol):
    """What all layers share in one step, and how they look back."""

    @property
    def seen(self) -> SeenRuns:
        """Columns of the bank."""

    def attended(self, heads: Heads) -> Tensor:
        """[N, Q·D], after the keys and values have gone into the cache."""


@dataclass(frozen=True)
class RowsStep:
    """One token of every row."""

    seen: SeenRuns
    turns: dict[Rotation, Turn]
    cache: RowCache
    mask_R1N: Tensor | None

    def attended(self, heads: Heads) -> Tensor:
        """See `SharedStep`."""
        layer, mask, window = self.cache.row_layers[heads.layer], self.mask_R1N, heads.window
        heads = heads.turned(self.turns[heads.rotation])
        keys, values = layer.update(heads.key[:, :, None], heads.value[:, :, None])
        if window is not None and keys.shape[2] > window:
            keys, values = keys[:, :, -window:], values[:, :, -window:]
            mask = None if mask is None else mask[..., -window:]
        return attend(heads.query, keys, values, mask, heads.scale, heads.cap)


@dataclass(frozen=True)
class KernelStep:
    """One token of every row, by the kernel: a row's sums go over its own tokens."""

    seen: SeenRuns
    turns: dict[Rotation, Turn]
    cache: RowCache
    firsts_R: Tensor
    kernel: AttentionKernel

    def attended(self, heads: Heads) -> Tensor:
        """See `SharedStep`."""
        layer, turn = self.cache.row_layers[heads.layer], self.turns[heads.rotation]
        return self.kernel(
            heads.query, heads.key, heads.value, turn.cos, turn.sin, layer.keys, layer.values, self.firsts_R,
            self.cache.now, heads.window, heads.scale, heads.cap,
        )  # fmt: skip


@dataclass(frozen=True)
class ChunksStep:
    """Some tokens of each of some texts, one text after the other."""

    seen: SeenRuns
    turns: dict[Rotation, Turn]
    texts: Sequence[tuple[slice, DynamicCache]]
    """Where the tokens of each are, and what it has been read to."""

    def attended(self, heads: Heads) -> Tensor:
        """See `SharedStep`."""
        heads = heads.turned(self.turns[heads.rotation])
        return torch.cat([_attended(heads.of(place), cache) for place, cache in self.texts])


def _attended(heads: Heads, cache: DynamicCache) -> Tensor:
    """[T, Q·D] of one text."""
    key, value = (each.transpose(0, 1)[None] for each in (heads.key, heads.value))
    keys, values = cache.update(key, value, heads.layer)
    return attend_among(heads.query, keys[0], values[0], heads.window, heads.scale, heads.cap)


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

    def __init__(self, linears: Linears, means: "Means") -> None:
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

    def __init__(self, number: int, block: Block, sight: Sight, means: "Means") -> None:
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


class FusedDecoder:
    """The decoder of a known family. Holds references to the model's weights, or a copy of them in another layout: what
    is changed in the model afterwards it does not see."""

    def __init__(
        self,
        anatomy: Anatomy,
        sights: Sequence[Sight],
        finish: Callable[[Tensor], Tensor],
        means: Means,
    ) -> None:
        """`finish` is what the model does with its head's output."""
        self.bank, self._kernels = means.bank, means.kernels
        self._embedding, self._norm, self._finish = anatomy.embedding, means.norm(anatomy.norm) or nn.Identity(), finish
        pairs = zip(anatomy.blocks, sights, strict=True)
        self.blocks = [FusedBlock(number, *pair, means) for number, pair in enumerate(pairs)]
        self._head = AdaptedDense(anatomy.head, means)
        self._rotations = {block.sight.rotation for block in self.blocks}
        self._like = anatomy.head.modules[0].weight
        self._device = self._like.device
        self._packed = means.packed_for is not None
        self._attend = means.compiled.attend if means.compiled is not None and self._turns_in_its_type else None
        self._default: str | None = None
        apart = self._rows_apart(anatomy)
        self._least_rows = 1 if 1 in apart else 2
        self._texts_are_apart = self._packed and apart >= {*RUNS} - {1} and self._tried_together(anatomy)

    def answer_by_default(self, pairs: Pairs) -> None:
        """Add these where no adapter is named: what the model itself adds, as adapters speak on it."""
        if pairs:
            self.bank.put(DEFAULT, pairs)
            self._default = DEFAULT

    @property
    def how(self) -> str:
        """Says what the weights' copy takes, and by what adapters are added."""
        copy = (
            f"weights copied into a quicker layout, {self.memory_bytes / 1e6:,.0f} MB"
            if self._packed
            else "weights as they are"
        )
        kernels = self._kernels
        compiled = "compiled kernels" if isinstance(kernels, Kernels) else f"no compiled kernels, for {kernels}"
        return f"decoding: fused blocks ({copy}; {compiled})"

    @property
    def is_compiled(self) -> bool:
        """Whether compiled kernels run between the products of its steps."""
        return isinstance(self._kernels, Kernels)

    @property
    def _turns_in_its_type(self) -> bool:
        """Whether the tables of the rotations are of the weights' type, as the kernel takes them."""
        return all(rotation.cos_PU.dtype == rotation.sin_PU.dtype == self._like.dtype for rotation in self._rotations)

    @property
    def memory_bytes(self) -> int:
        """The second copy of the weights."""
        products = (each for block in self.blocks for each in block.products)
        return sum(each.product.memory_bytes for each in (*products, self._head))

    def logits(self, ids: Sequence[int], adapters: Sequence[str | None], cache: RowCache) -> Tensor:
        """See `Decoder`."""
        numbers = rows_of(len(ids), self._least_rows)
        x_RH = self.embedded([ids[number] for number in numbers])
        step = self.rows_step(numbers, adapters, cache)
        return self.scored(self._walked(x_RH, step), step.seen)[: len(ids)]

    def read(self, chunks: Sequence[Chunk]) -> Tensor:
        """See `Decoder`; all in one walk, where that gives each text the bits that it has alone.

        Of torch's own products a trial says too little: of some shapes one element in ten thousand changes.
        """
        if self._texts_are_apart:
            return self._read(chunks)
        return torch.cat([self._read([chunk]) for chunk in chunks])

    def _read(self, chunks: Sequence[Chunk]) -> Tensor:
        """[K, V]."""
        step = self.chunks_step(chunks)
        x_NH = self._walked(self.embedded([id for chunk in chunks for id in chunk.ids]), step)
        lasts = [x_NH[place][-self._least_rows :] for place, _ in step.texts]
        ends = places_of([len(last) for last in lasts])
        logits_NV = self.scored(torch.cat(lasts), self._seen(ends, chunks))
        return logits_NV[[end.stop - 1 for end in ends]]

    def rows_step(self, numbers: Sequence[int], adapters: Sequence[str | None], cache: RowCache) -> SharedStep:
        """What the layers share in a step of these rows of the cache."""
        seen = SeenRuns([(slice(0, len(numbers)), self._seen_by([adapters[number] for number in numbers]))])
        turns = self._turns(cache.positions(numbers, self._device)[:, 0])
        if self._attend is not None:
            return KernelStep(seen, turns, cache, cache.firsts(numbers), self._attend)
        return RowsStep(seen, turns, cache, cache.added_mask(numbers, self._like))

    def chunks_step(self, chunks: Sequence[Chunk]) -> ChunksStep:
        """What the layers share while chunks are read."""
        places = places_of([len(chunk.ids) for chunk in chunks])
        return ChunksStep(
            seen=self._seen(places, chunks),
            turns=self._turns(torch.cat([self._positions(chunk) for chunk in chunks])),
            texts=[(place, chunk.cache) for place, chunk in zip(places, chunks, strict=True)],
        )

    def _seen(self, places: Sequence[slice], chunks: Sequence[Chunk]) -> SeenRuns:
        return SeenRuns([(place, self._seen_by([chunk.adapter])) for place, chunk in zip(places, chunks, strict=True)])

    def _positions(self, chunk: Chunk) -> Tensor:
        first = chunk.cache.get_seq_length()
        return torch.arange(first, first + len(chunk.ids), device=self._device)

    def _seen_by(self, adapters: Sequence[str | None]) -> SeenColumns | None:
        return self.bank.seen([self._default if adapter is None else adapter for adapter in adapters])

    def embedded(self, ids: Sequence[int]) -> Tensor:
        """[N, H]."""
        x_NH: Tensor = self._embedding(torch.tensor([*ids], device=self._device))
        return x_NH

    def _turns(self, positions_N: Tensor) -> dict[Rotation, Turn]:
        return {rotation: rotation.at(positions_N) for rotation in self._rotations}

    def _walked(self, x_NH: Tensor, step: SharedStep) -> Tensor:
        for block in self.blocks:
            x_NH = block(x_NH, step)
        return x_NH

    def scored(self, x_NH: Tensor, seen: SeenRuns) -> Tensor:
        """[N, V], behind what the last block leaves."""
        return self._finish(self._head(self._norm(x_NH), seen))

    def _rows_apart(self, anatomy: Anatomy) -> frozenset[int]:
        """How many rows of any product have the bits that they have beside others."""
        linears = zip(self.blocks[0].products, _linears_of(anatomy.blocks[0]), strict=True)
        apart = [rows_apart(each.product, modules[0].in_features, modules[0].weight, ROWS) for each, modules in linears]
        head = anatomy.head.modules[0]
        return frozenset.intersection(*apart, rows_apart(self._head.product, head.in_features, head.weight, HEAD_ROWS))

    def _tried_together(self, anatomy: Anatomy) -> bool:
        """Whether texts that the first block and the head are given together have the bits that each has alone."""
        known = min(len(rotation.cos_PU) for rotation in self._rotations)
        places, like = places_of([length for length in TEXTS if length <= known]), anatomy.head.modules[0].weight
        drawn_NH = torch.randn(places[-1].stop, like.shape[1], generator=torch.Generator().manual_seed(0))
        x_NH = drawn_NH.to(like.device, like.dtype)
        alone = [self._through_one_block(x_NH[place], [place]) for place in places]
        return torch.equal(self._through_one_block(x_NH, places), torch.cat(alone))

    def _through_one_block(self, x_NH: Tensor, places: Sequence[slice]) -> Tensor:
        """The logits behind the last tokens of texts whose tokens a block is given."""
        lengths = [place.stop - place.start for place in places]
        step = ChunksStep(
            seen=SeenRuns.none(),
            turns=self._turns(torch.cat([torch.arange(length, device=self._device) for length in lengths])),
            texts=[(place, DynamicCache()) for place in places_of(lengths)],
        )
        h_NH = self.blocks[0](x_NH.clone(), step)
        return self.scored(torch.cat([h_NH[place][-self._least_rows :] for place, _ in step.texts]), SeenRuns.none())


def places_of(lengths: Sequence[int]) -> list[slice]:
    """Where runs of these lengths are, one after the other."""
    ends = list(accumulate(lengths))
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def _linears_of(block: Block) -> list[tuple[nn.Linear, ...]]:
    return [each.modules for each in (block.qkv, block.out, block.gate_up, block.down)]


def _plus(x_RH: Tensor, y_RI: Tensor, product: AdaptedDense, after: Norm | None, seen: SeenRuns) -> Tensor:
    """x + after(y Wᵀ)."""
    return product.plus(x_RH, y_RI, seen) if after is None else x_RH + after(product(y_RI, seen))


def _width(norm: nn.Module) -> int:
    return sum(each.numel() for each in norm.parameters())


def _head(block: Block) -> int:
    return int(block.attention.head_dim)  # type: ignore[arg-type]
