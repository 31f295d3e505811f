"""`--shard`: which blocks of a model are sharded, and what does not work there."""

from dataclasses import replace

import torch

from loralab.errors import SpecError
from loralab.machine import give_back_free_memory
from loralab.methods.table import rows_of
from loralab.models.families.blocks import blocks_of
from loralab.models.precision import choose_dtype
from loralab.processes.group import Processes
from loralab.processes.sharding import Shards, shard_blocks
from loralab.training.config import TrainConfig
from loralab.training.prepare import Prepared


def on_host(config: TrainConfig, dtype: str, processes: Processes) -> tuple[TrainConfig, str]:
    """(the configuration, the precision) by which a base is loaded that is sharded afterwards: whole on the host, as
    the device that computes would have it.
    """
    return replace(config, device="cpu"), str(choose_dtype(dtype, torch.device(processes.device))[0]).removeprefix(
        "torch."
    )


def parts_of(shard: bool | int, processes: Processes) -> int:
    """Processes that hold a base together: all of them, unless a number is given; 1 where each has all of it."""
    if isinstance(shard, bool):
        return processes.count if shard else 1
    return shard


def shard_base(config: TrainConfig, prepared: Prepared, shards: Shards) -> Prepared:
    """The run, of whose frozen base this process keeps its part. Raises SpecError where the blocks are not known."""
    adapter, model = prepared.trainee.adapter, prepared.loaded.model
    own = [tensor for _, tensor in adapter.named_tensors()]
    said = [str(shard_blocks(model, blocks_of(model), own, shards, prepared.loaded.dtype))]
    give_back_free_memory()
    if config.samples:
        said.append("no samples are asked: their texts end after different numbers of passes")
    return replace(prepared, notes=(*prepared.notes, *said))


def check_sharded(config: TrainConfig, processes: Processes) -> None:
    """Raises SpecError naming what does not go with a sharded base."""
    trains = any(row.trains_weights for row in rows_of(config.method))
    parts = parts_of(config.shard, processes)
    reasons = {
        "one process: there is nobody to share the base with; give --processes": not processes.are_several,
        f"{processes.count} processes: they cannot be divided into groups of {parts}": processes.count % parts != 0,
        f"method {config.method}: every process would hold what it trains of the weights whole; choose lora": trains,
    }
    problems = [reason for reason, applies in reasons.items() if applies]
    if problems:
        said = "shard" if isinstance(config.shard, bool) else f"shard {config.shard}"
        raise SpecError(f"{said} and {f'; {said} and '.join(problems)}")
