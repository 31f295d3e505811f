"""The frozen weights of blocks, each process holding its part of them: torch's FSDP2 (`fully_shard`).

A block's weights are gathered before it computes, forwards and backwards, and dropped after it, in their own precision.
What trains is whole in every process, and so is what lies outside the blocks: embeddings, final norm, head.

Weights come from where they are, part by part: a checkpoint that is mapped into memory is read where a process copies
its own rows out of it, and no block is ever whole in a process before it first computes.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from loralab.processes.group import Processes

Place = tuple[nn.Module, str, nn.Parameter]
"""(a module, the name of its parameter, the parameter)."""


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


@dataclass(frozen=True)
class Shards:
    """Who holds which part: the rows of a tensor are dealt out along the mesh's last dimension."""

    mesh: DeviceMesh

    @property
    def count(self) -> int:
        """Processes that hold a part each."""
        return self.mesh.size(self.mesh.ndim - 1)

    @property
    def placements(self) -> tuple[Placement, ...]:
        """Parts along the last dimension of the mesh, copies of them along the one before it, where there is one."""
        return *(Replicate() for _ in range(self.mesh.ndim - 1)), Shard(0)

    def part(self, whole: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """This process's rows of a tensor, copied to its device, as the tensor that all parts are together."""
        index = self.mesh.get_local_rank(self.mesh.ndim - 1)
        rows = whole.detach().chunk(self.count)
        own = rows[index] if index < len(rows) else whole.detach()[:0]
        copied = own.to(self.mesh.device_type, dtype, copy=True, memory_format=torch.contiguous_format)
        return DTensor.from_local(
            copied, self.mesh, self.placements, run_check=False, shape=whole.shape, stride=_strides(whole.shape)
        )


def shards_of(processes: Processes, parts: int | None = None) -> Shards:
    """Every process holds a part; with fewer `parts` than processes, each part is held by several, as rows of processes
    that stand beside one another. All of them must ask for it at once.
    """
    if parts is None or parts == processes.count:
        return Shards(init_device_mesh(processes.device, (processes.count,), mesh_dim_names=("shards",)))
    sizes = processes.count // parts, parts
    return Shards(init_device_mesh(processes.device, sizes, mesh_dim_names=("copies", "shards")))


def shard_blocks(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    own: Collection[Tensor],
    shards: Shards,
    dtype: torch.dtype | None = None,
) -> Sharded:
    """Leave to this process its part of the frozen weights of the blocks, on the mesh's device, where everything else
    then is as well. The model may be on the host before, mapped from its file: of the blocks only what this process
    keeps is copied, and the rest lets go of the file.

    `own` are the tensors that are no part of the base. Weights that are floats in the model's precision get `dtype`.
    """
    kept = {id(each) for each in own}
    inside = {id(p): p for block in blocks for p in block.parameters() if id(p) not in kept}
    outside = {id(p): p for p in model.parameters() if id(p) not in kept and id(p) not in inside}
    stored = next((p.dtype for p in outside.values() if p.is_floating_point()), None)
    due = {id(p): dtype for p in chain(inside.values(), outside.values()) if dtype is not None and p.dtype == stored}
    for block in blocks:
        ignored = {parameter for parameter in block.parameters() if id(parameter) in kept}
        _shard_block(block, [place for place in _places(block) if id(place[2]) not in kept], ignored, shards, due)
    for each in outside.values():
        each.data = each.data.to(shards.mesh.device_type, due.get(id(each)), copy=True)
    for tensor in chain(model.buffers(), own):
        if tensor.device.type != shards.mesh.device_type:
            tensor.data = tensor.data.to(shards.mesh.device_type)
    now = {id(p): p for block in blocks for p in block.parameters() if id(p) not in kept}
    return Sharded(len(blocks), shards.count, _bytes(now.values()), _bytes(outside.values()))


def _places(block: nn.Module) -> Iterator[Place]:
    """Every place of a parameter; a shared one has several."""
    for module in block.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield module, name, parameter


def _shard_block(
    block: nn.Module,
    places: Sequence[Place],
    ignored: set[nn.Parameter],
    shards: Shards,
    due: dict[int, torch.dtype],
) -> None:
    """FSDP2 learns the shapes from parameters without storage; their parts come after, which it allows."""
    parts: dict[int, nn.Parameter] = {}
    for _, _, parameter in places:
        if id(parameter) not in parts:
            data = parameter.data
            part = data if isinstance(data, DTensor) else shards.part(data, due.get(id(parameter)))
            parts[id(parameter)] = nn.Parameter(part, requires_grad=False)
    shapes = {
        key: nn.Parameter(torch.empty(part.shape, dtype=part.dtype, device="meta"), requires_grad=False)
        for key, part in parts.items()
    }
    _put(places, shapes)
    fully_shard(block, mesh=shards.mesh, reshard_after_forward=True, ignored_params=ignored)
    _put(places, parts)


def _put(places: Sequence[Place], parameters: dict[int, nn.Parameter]) -> None:
    for module, name, parameter in places:
        module._parameters[name] = parameters[id(parameter)]


def _strides(shape: torch.Size) -> tuple[int, ...]:
    """Of a contiguous tensor."""
    return torch.empty(shape, device="meta").stride()


def _bytes(tensors: Collection[Tensor]) -> int:
    """Of all parts together."""
    return sum(each.numel() * each.element_size() for each in tensors)
