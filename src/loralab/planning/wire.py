"""What goes over the wire in a step of several processes, and what a sharded base leaves elsewhere.

adapter  one sum of the gradients in float32: a ring sends 2·(N − 1)/N of them from every process
base     sharded, a block is gathered for the forward pass and for the backward pass of every batch: each time a
         process sends its part to N − 1 others
"""

from dataclasses import asdict, dataclass

from torch import nn

from loralab.core.adapter import Adapter
from loralab.models.families.blocks import blocks_of
from loralab.models.nf4 import quantized_layers
from loralab.planning.shape import FLOAT32

GATHERINGS = 2
"""Of a block in a batch: forwards and backwards. Checkpointing computes it again while it is there."""


@dataclass(frozen=True)
class FrozenBlocks:
    """Frozen weights in the blocks of a model, in bytes."""

    total: int
    largest: int
    """Of one block, which is whole while it is computed."""

    def elsewhere(self, processes: int) -> int:
        """Bytes that one of so many processes does not hold."""
        return max(0, self.total - self.total // processes - self.largest)


def frozen_blocks(model: nn.Module, adapter: Adapter, itemsize: int) -> FrozenBlocks:
    """Of the base that the adapter is on, whose weights have `itemsize` bytes each unless they are packed. Raises
    SpecError for a model whose blocks are not known.
    """
    trained = {id(each) for each in adapter.parameters()}
    sizes = [
        sum(p.numel() * itemsize for p in block.parameters() if id(p) not in trained)
        + sum(layer.packed_bytes for layer in quantized_layers(block))
        for block in blocks_of(model)
    ]
    return FrozenBlocks(sum(sizes), max(sizes))


@dataclass(frozen=True)
class Wire:
    """Bytes that every process sends."""

    adapter_per_step: int
    base_per_batch: int
    """0 where every process has the whole base."""

    def to_json(self) -> dict[str, int]:
        """Both."""
        return asdict(self)


def wire(trained: int, blocks: FrozenBlocks | None, processes: int) -> Wire:
    """For so many trained parameters; `blocks` where they are sharded."""
    adapter = 2 * (processes - 1) * trained * FLOAT32 // processes
    base = 0 if blocks is None else GATHERINGS * (processes - 1) * blocks.total // processes
    return Wire(adapter, base)
