"""Where the sequences of a batch are in what a layer receives, found by running each sequence alone.

Most layers get [S, T, …], the sequences outermost. With the batch second it is [T, S, …]; a model that flattens gives
[S·T, …], Llama 4's experts [E·S·T, …]; positions are often [1, T], the same for all. The shape does not tell these
apart, the values do: what a layer gets of sequence s in the batch must be what it gets when s comes alone.

Shapes: S sequences, P entries of one of them, I features.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_CLOSE = 0.05
"""Largest relative difference between what is the same but for rounding (bfloat16, batches of other sizes)."""
_LARGEST = 1e4
"""Beyond this values count as this: masks hold the lowest number there is."""


@dataclass(frozen=True)
class Layout:
    """The sequences in the leading dimensions of a layer's input: dimension `dimension` is [blocks, S, …] flattened."""

    dimension: int = 0
    blocks: int = 1
    shared: bool = False
    """One input [1, …] for all sequences instead."""
    fixed: bool = False
    """Proven for inputs of these sizes alone."""

    @property
    def is_regular(self) -> bool:
        """Whether it holds for batches of other sizes as well."""
        return self.blocks == 1 and not self.fixed

    def fits(self, leading: Sequence[int], count: int) -> bool:
        """Whether an input with these leading dimensions can have this layout."""
        if self.shared:
            return len(leading) > 1 and leading[0] == 1
        return len(leading) > self.dimension and leading[self.dimension] % (self.blocks * count) == 0

    def sequences_first(self, x: Tensor, leading: int, count: int) -> Tensor:
        """[S, P, …] of an input whose first `leading` dimensions are these; the rest are features."""
        features = x.shape[leading:]
        if self.shared:
            return x.expand(count, *x.shape[1:]).reshape(count, -1, *features)
        outer = self._outer(x.shape)
        return x.reshape(outer, count, -1, *features).transpose(0, 1).reshape(count, -1, *features)

    def restored(self, y: Tensor, like: Tensor, leading: int, count: int) -> Tensor:
        """[S, P, O] in the place of an input like this."""
        sizes = like.shape[:leading]
        if self.shared:
            return y.reshape(count, *sizes[1:], *y.shape[2:])
        outer = self._outer(sizes)
        return y.reshape(count, outer, -1, *y.shape[2:]).transpose(0, 1).reshape(*sizes, *y.shape[2:])

    def _outer(self, sizes: Sequence[int]) -> int:
        outer = self.blocks
        for size in sizes[: self.dimension]:
            outer *= size
        return outer


FLAT = Layout()
"""The sequences outermost."""


def find_layout(batch: Tensor, alone: Sequence[Tensor], leading: int) -> Layout | None:
    """The layout of an input, from it and from what it is for each sequence alone; None where there is none."""
    count, sizes = len(alone), batch.shape[:leading]
    for layout in _candidates(sizes, count):
        if layout.fits(sizes, count):
            arranged = layout.sequences_first(batch, leading, count)
            expected = [each.reshape(-1, *each.shape[leading:]) for each in alone]
            if all(map(same, arranged, expected)):
                return layout
    return None


def _candidates(sizes: Sequence[int], count: int) -> Iterator[Layout]:
    yield from (Layout(dimension) for dimension in range(len(sizes)))
    yield Layout(shared=True)
    for dimension, size in enumerate(sizes):
        yield from (Layout(dimension, blocks) for blocks in range(2, size // count + 1))


def same(one: object, other: object) -> bool:
    """Whether two nests of tensors are equal but for rounding; what is no tensor is not compared."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and _close(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    return True


def _close(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    difference = torch.linalg.vector_norm(one.double() - other.double())
    return bool(difference <= _CLOSE * torch.linalg.vector_norm(other.double()))


def digest(nest: Any) -> Any:
    """Tensors with their last dimension summed up by a fixed random vector: enough to tell sequences apart."""
    if isinstance(nest, Tensor):
        if nest.dim() < 2 or not nest.is_floating_point():
            return nest.detach()
        drawn = torch.randn(nest.shape[-1], generator=torch.Generator().manual_seed(0))
        return nest.detach().float().clamp(-_LARGEST, _LARGEST) @ drawn.to(nest.device)
    if isinstance(nest, dict):
        return {key: digest(value) for key, value in nest.items()}
    if isinstance(nest, (tuple, list)):
        return tuple(digest(value) for value in nest)
    return None


def alone(nest: Any, sequence: int, count: int) -> Any:
    """The model's own arguments for one sequence of the batch: of every tensor its share, of a cache a copy."""
    if isinstance(nest, Tensor):
        dimension = _of_argument(nest, count)
        return nest if dimension is None else nest.chunk(count, dimension)[sequence]
    if isinstance(nest, dict):
        return {key: alone(value, sequence, count) for key, value in nest.items()}
    if type(nest) in (tuple, list):
        return type(nest)(alone(value, sequence, count) for value in nest)
    copied = copy.deepcopy(nest)
    if count > 1 and hasattr(copied, "batch_select_indices") and copied.get_seq_length():
        copied.batch_select_indices(torch.tensor([sequence]))
    return copied


def _of_argument(tensor: Tensor, count: int) -> int | None:
    """Which dimension of one of the model's own arguments is cut into sequences; None: it is the same for all."""
    if _are_axes(tensor, count):
        return 1
    cut = tensor.dim() > 0 and (tensor.shape[0] == count or is_packed(tensor, count))
    return 0 if cut and tensor.shape[0] % count == 0 else None


def _are_axes(tensor: Tensor, count: int) -> bool:
    """Positions along several axes, [axes, S, T] (Qwen2-VL's)."""
    return tensor.dim() == 3 and not tensor.is_floating_point() and tensor.shape[1] == count != tensor.shape[0]


def is_packed(nest: Any, count: int) -> bool:
    """Whether among the model's own arguments is one that holds more than one entry for a sequence side by side (the
    patches of its images): how many are whose no shape says."""
    if isinstance(nest, Tensor):
        return nest.dim() > 1 and nest.shape[0] not in (1, count) and not _are_axes(nest, count)
    if isinstance(nest, dict):
        return any(is_packed(value, count) for value in nest.values())
    return isinstance(nest, (tuple, list)) and any(is_packed(value, count) for value in nest)


def untouched(nest: Any) -> Any:
    """The model's own arguments once more, with a copy of what a pass would change (a cache)."""
    return alone(nest, 0, 1)
