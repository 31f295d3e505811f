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
from itertools import accumulate

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from loralab.serving.engine.bank import Pairs, SeenColumns, SeenRuns
from loralab.serving.engine.cache import RowCache
from loralab.serving.engine.decoder import Chunk, rows_of
from loralab.serving.engine.fused.anatomy import Anatomy, Block
from loralab.serving.engine.fused.attention import Rotation, Turn
from loralab.serving.engine.fused.block import AdaptedDense, FusedBlock, Means, Sight
from loralab.serving.engine.fused.products import RUNS, rows_apart
from loralab.serving.engine.fused.steps import ChunksStep, KernelStep, RowsStep, SharedStep
from loralab.serving.engine.native.attention import Paths, Runs
from loralab.serving.engine.native.kernels import Kernels
from loralab.serving.engine.tree import TreeCache

DEFAULT = "what speaks on the model"
"""The key of its pairs in the bank; adapters are keyed by hashes."""
TEXTS = (2, 3, 7, 16, 33, 64, 131)
"""Tokens of the texts that are tried together."""
ROWS, HEAD_ROWS = 131, 48
"""Rows of a product, and of the head's, that are tried together."""


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

    @property
    def follows_paths(self) -> bool:
        """Whether it can take steps of a beam search."""
        return self._attend is not None

    def logits_along_paths(self, ids: Sequence[int], cache: TreeCache) -> Tensor:
        """The logits [R, V] behind token `ids[r]` of row r = (input, beam), which looks along its path."""
        assert self._attend is not None
        everyone = SeenRuns([(slice(0, len(ids)), self._seen_by([None] * len(ids)))])
        turns = self._turns(cache.positions().flatten())
        step = KernelStep(everyone, turns, cache.tree_layers, Paths(*cache.paths()), self._attend)
        return self.scored(self._walked(self.embedded(ids), step), step.seen)

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
            return KernelStep(seen, turns, cache.row_layers, Runs(cache.firsts(numbers), cache.now), self._attend)
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
