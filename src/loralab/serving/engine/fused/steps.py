"""What all layers of a decoder share in one step, and how they look back: a token of every row, or chunks of texts.

Shapes: R rows, T tokens of a chunk, N rows or the tokens of all chunks, Q query heads, G key heads, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from loralab.serving.engine.bank import SeenRuns
from loralab.serving.engine.cache import RowCache, RowLayer
from loralab.serving.engine.fused.attention import Rotation, Turn, attend, attend_among
from loralab.serving.engine.native.attention import AttentionKernel, Paths, Runs
from loralab.serving.engine.tree import TreeLayer


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
    """One token of every row, or of every beam of a search, by the kernel: sums go over its own tokens."""

    seen: SeenRuns
    turns: dict[Rotation, Turn]
    layers: Sequence[RowLayer | TreeLayer]
    """Of the cache."""
    tokens: Runs | Paths
    kernel: AttentionKernel

    def attended(self, heads: Heads) -> Tensor:
        """See `SharedStep`."""
        layer, turn = self.layers[heads.layer], self.turns[heads.rotation]
        return self.kernel(
            heads.query, heads.key, heads.value, turn.cos, turn.sin, layer.keys, layer.values,
            self.tokens, heads.window, heads.scale, heads.cap,
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
