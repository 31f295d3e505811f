"""What prompts begin with, read once: keys and values by adapter and tokens, for requests that begin alike.

A prompt is read in chunks whose ends depend on its length alone (`end_of_chunk`): every so many tokens, a block. A
block is taken from here only in the place of the very call that would compute it, so that an answer has the same bits
whether its beginning was known or not. What is computed in a last chunk that ends where the prompt does is not kept.

Blocks are found by a chain of hashes that begins with the adapter's content: no two adapters share any. The blocks
used longest ago are dropped, those further behind in a prompt before those that they follow.

Shapes: H heads of keys and values, T tokens, D width of a head.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from loralab.serving.engine.cache import keys_and_values

BLOCK = 128
"""Tokens. Fewer would be found more often, and cost more calls of the model where nothing is."""


@dataclass(frozen=True)
class PrefixBlock:
    """Keys and values [1, H, T, D] of a block's tokens in every layer."""

    adapter: str | None
    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def memory_bytes(self) -> int:
        """What they take."""
        return sum(each.nbytes for layer in self.layers for each in layer)


class PrefixStore:
    """Blocks of at most `capacity` bytes together. Not for several threads at once."""

    def __init__(self, capacity: int, block: int = BLOCK) -> None:
        self.capacity, self.block = capacity, block
        self.memory_bytes = 0
        """What the blocks take."""
        self.hits = 0
        """Prompts of which a beginning was known."""
        self.reused = 0
        """Tokens that were not read again."""
        self.why_off = "" if capacity else "it was not asked for"
        """Why it keeps nothing; empty where it does."""
        self._blocks: OrderedDict[bytes, PrefixBlock] = OrderedDict()

    def turn_off(self, why: str) -> None:
        """Keep nothing from now on."""
        self.why_off = why
        for key in list(self._blocks):
            self._drop(key)

    def begin(self, adapter: str | None, prompt: Sequence[int], cache: DynamicCache) -> int:
        """Fill an empty cache with the longest known beginning; how many tokens it has. At least two are left."""
        if self.why_off:
            return 0
        keys = []
        for key in self._chain(adapter, prompt, _whole_blocks(len(prompt) - 2, self.block)):
            if key not in self._blocks:
                break
            keys.append(key)
        if not keys:
            return 0
        self._use(keys)
        blocks = [self._blocks[key].layers for key in keys]
        for number, parts in enumerate(zip(*blocks, strict=True)):
            k_1HTD, v_1HTD = (torch.cat(each, dim=-2) for each in zip(*parts, strict=True))
            cache.update(k_1HTD, v_1HTD, number)
        self.hits, self.reused = self.hits + 1, self.reused + len(keys) * self.block
        return len(keys) * self.block

    def keep(self, adapter: str | None, prompt: Sequence[int], cache: DynamicCache) -> None:
        """Have the blocks of a prompt that has been read to its end."""
        if self.why_off:
            return
        if not _is_plain(cache, len(prompt)):
            self.turn_off("the model keeps more than keys and values of every token")
            return
        ends = [end for _, end in pairwise(ends_of_chunks(len(prompt), self.block)) if end % self.block == 0]
        keys = list(self._chain(adapter, prompt, len(ends)))
        for key, end in zip(keys, ends, strict=True):
            if key not in self._blocks:
                self._put(key, _block_of(adapter, cache, end - self.block, end))
        self._use(keys)
        while self.memory_bytes > self.capacity:
            self._drop(next(iter(self._blocks)))

    def forget(self, adapter: str) -> None:
        """Drop what was read under an adapter."""
        for key in [key for key, block in self._blocks.items() if block.adapter == adapter]:
            self._drop(key)

    def _chain(self, adapter: str | None, prompt: Sequence[int], blocks: int) -> Iterator[bytes]:
        """The keys of a prompt's first blocks: each stands for all tokens up to its end, and for the adapter."""
        key = hashlib.sha256(b"base" if adapter is None else b"adapter " + adapter.encode()).digest()
        for start in range(0, blocks * self.block, self.block):
            key = hashlib.sha256(key + array("q", prompt[start : start + self.block]).tobytes()).digest()
            yield key

    def _use(self, keys: Sequence[bytes]) -> None:
        for key in reversed(keys):
            self._blocks.move_to_end(key)

    def _put(self, key: bytes, block: PrefixBlock) -> None:
        self._blocks[key] = block
        self.memory_bytes += block.memory_bytes

    def _drop(self, key: bytes) -> None:
        self.memory_bytes -= self._blocks.pop(key).memory_bytes


def end_of_chunk(start: int, length: int, block: int) -> int:
    """Where the chunk ends that begins at `start`: at the next whole block, or with the prompt.

    No token is left alone: a product of one row rounds otherwise.
    """
    end = (start // block + 1) * block
    return length if end >= length - 1 else end


def ends_of_chunks(length: int, block: int) -> list[int]:
    """0, and where each chunk of a prompt ends."""
    ends = [0]
    while ends[-1] < length:
        ends.append(end_of_chunk(ends[-1], length, block))
    return ends


def _whole_blocks(tokens: int, block: int) -> int:
    return max(0, tokens // block)


def _is_plain(cache: DynamicCache, length: int) -> bool:
    """Whether every layer has keys and values of every token, and nothing else."""
    return all(
        type(layer) is DynamicLayer and layer.keys is not None and layer.keys.shape[-2] == length
        for layer in cache.layers
    )


def _block_of(adapter: str | None, cache: DynamicCache, start: int, end: int) -> PrefixBlock:
    pairs = (keys_and_values(layer) for layer in cache.layers)  # type: ignore[arg-type]  # all are plain
    return PrefixBlock(adapter, tuple((k[:, :, start:end].clone(), v[:, :, start:end].clone()) for k, v in pairs))
