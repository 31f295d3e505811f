"""The frozen weights of blocks, each process holding its part of them: torch's FSDP2 (`fully_shard`).

A block's weights are gathered before it computes, forwards and backwards, and dropped after it, in their own precision.
What trains is whole in every process, and so is what lies outside the blocks: embeddings, final norm, head.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from loralab.processes.group import Processes


@dataclass(frozen=True)
class Sharded:
    """What became of a model's frozen weights."""

    blocks: int
    parts: int
    """Processes that hold a part each."""
    sharded_bytes: int
    """Of all parts together."""
    whole_bytes: int
    """Of the frozen weights that every process has."""

    def __str__(self) -> str:
        """For the log: the sizes in MB of 10⁶ bytes."""
        own = self.sharded_bytes / self.parts
        return (
            f"{self.blocks} blocks are sharded over {self.parts} processes: {own / 1e6:,.1f} of "
            f"{self.sharded_bytes / 1e6:,.1f} MB in each, and {self.whole_bytes / 1e6:,.1f} MB outside of them whole"
        )


def shards_of(processes: Processes) -> DeviceMesh:
    """One dimension: every process holds a part. All of them must ask for it at once."""
    return init_device_mesh(processes.device, (processes.count,), mesh_dim_names=("shards",))


def shard_blocks(model: nn.Module, blocks: Sequence[nn.Module], own: Collection[Tensor], mesh: DeviceMesh) -> Sharded:
    """Leave to this process its part of the frozen weights of the blocks, block by block on the mesh's device, where
    everything else then is as well: the model may be on the host before, so that it never is whole on a device.

    `own` are the tensors that are no part of the base.
    """
    kept = {id(each) for each in own}
    inside = {id(p): p for block in blocks for p in block.parameters() if id(p) not in kept}
    outside = [p for p in model.parameters() if id(p) not in kept and id(p) not in inside]
    sharded, whole = (sum(p.numel() * p.element_size() for p in group) for group in (inside.values(), outside))
    for block in blocks:
        ignored = {parameter for parameter in block.parameters() if id(parameter) in kept}
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=ignored)
    for tensor in chain(model.parameters(), model.buffers(), own):
        if not isinstance(tensor, DTensor) and tensor.device.type != mesh.device_type:
            tensor.data = tensor.data.to(mesh.device_type)
    return Sharded(len(blocks), mesh.size(), sharded, whole)
