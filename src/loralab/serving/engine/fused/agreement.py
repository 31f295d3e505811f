"""Whether a fused decoder computes what the model does, part by part.

Two walks through thirty blocks say little of each other in bfloat16: roundings grow from block to block until they are
as large as a fault. So each block is given what the model's own was given, and what it adds is compared; that nothing
stands between the parts is seen beside it.

Shapes: N rows, or the tokens of a chunk; H width, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from loralab.nn.trial import agree
from loralab.serving.engine.fused.anatomy import Anatomy
from loralab.serving.engine.fused.decoder import FusedDecoder
from loralab.serving.engine.fused.steps import SharedStep

LEAST_SHARE, ROUNDINGS = 1e-4, 8
"""The share of what a block adds that may differ: so much, or so many roundings."""
RESIDUAL_ROUNDINGS = 2
"""Roundings of a sum that may differ beside it: of the two that each block makes, in both."""


@dataclass(frozen=True)
class Walk:
    """What the model's blocks were given, [N, H] each, what each left, and the logits [·, V] behind the last."""

    entered: Sequence[Tensor]
    left: Sequence[Tensor]
    logits: Tensor

    @property
    def is_unbroken(self) -> bool:
        """Whether each block was given what the one before had left."""
        return all(torch.equal(x, y) for x, y in zip(self.entered[1:], self.left, strict=False))


def walk_of(anatomy: Anatomy, take: Callable[[], Tensor]) -> Walk:
    """What a step of the model's own shows while it is taken."""
    seen = _Seen()
    with seen.watching([block.module for block in anatomy.blocks]):
        logits = take().clone()
    return Walk(seen.entered, seen.left, logits)


def takes_the_same(decoder: FusedDecoder, step: SharedStep, ids: Sequence[int], walk: Walk) -> bool:
    """Whether the decoder's parts, given what the model's were given, leave what those left."""
    embedded_NH = decoder.embedded(ids)
    if len(walk.left) != len(decoder.blocks) or not walk.is_unbroken or not agree(embedded_NH, walk.entered[0]):
        return False
    for block, entered_NH, left_NH in zip(decoder.blocks, walk.entered, walk.left, strict=True):
        if not adds_the_same(block(entered_NH.clone(), step), left_NH, entered_NH):
            return False
    logits_NV = decoder.scored(walk.left[-1], step.seen)
    return agree(logits_NV[-len(walk.logits) :], walk.logits)


def adds_the_same(y_NH: Tensor, left_NH: Tensor, entered_NH: Tensor) -> bool:
    """Whether a block left the same but for rounding, in every row, measured by what was added to it."""
    if y_NH.shape != left_NH.shape:
        return False
    eps = torch.finfo(left_NH.dtype).eps
    y, left, entered = (each.double() for each in (y_NH, left_NH, entered_NH))
    beyond = ((y - left).abs() - RESIDUAL_ROUNDINGS * eps * left.abs()).clamp(min=0)
    share = max(LEAST_SHARE, ROUNDINGS * eps)
    return bool((beyond.norm(dim=-1) <= share * (left - entered).norm(dim=-1)).all())


@dataclass
class _Seen:
    entered: list[Tensor] = field(default_factory=list)
    left: list[Tensor] = field(default_factory=list)

    @contextmanager
    def watching(self, blocks: Sequence[nn.Module]) -> Iterator[None]:
        handles = [each.register_forward_hook(self._note, with_kwargs=True) for each in blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        entered: Tensor = args[0] if args else kwargs["hidden_states"]
        left: Tensor = output[0] if isinstance(output, tuple) else output
        self.entered.append(entered.flatten(0, -2).clone())
        self.left.append(left.flatten(0, -2).clone())
