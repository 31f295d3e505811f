"""`--shard`: which blocks of a model are sharded, and what does not work there."""

from torch import nn

from loralab.core.adapter import Adapter
from loralab.errors import SpecError
from loralab.methods.table import rows_of
from loralab.models.families.blocks import blocks_of
from loralab.processes.group import Processes
from loralab.processes.sharding import shard_blocks
from loralab.training.config import TrainConfig


def shard_base(config: TrainConfig, model: nn.Module, adapter: Adapter, processes: Processes) -> list[str]:
    """Shard the frozen base of a run that asks for it; what is to be said of it.

    Raises SpecError for what does not work there, and for a model whose blocks are not known.
    """
    if not config.shard:
        return []
    check_sharded(config, processes)
    device = next(model.parameters()).device.type
    sharded = shard_blocks(model, blocks_of(model), set(adapter.parameters()), processes, device)
    unasked = ["no samples are asked: their texts end after different numbers of passes"] if config.samples else []
    return [str(sharded), *unasked]


def check_sharded(config: TrainConfig, processes: Processes) -> None:
    """Raises SpecError naming what does not go with a sharded base."""
    trains = any(row.trains_weights for row in rows_of(config.method))
    reasons = {
        "one process: there is nobody to share the base with; give --processes": not processes.are_several,
        f"method {config.method}: every process would hold what it trains of the weights whole; choose lora": trains,
        f"quantize {config.quantize}: packed weights are no parameters, which alone are sharded; leave one out": (
            config.quantize is not None
        ),
        "preference dpo: its reference is computed when a process needs it, and a sharded base needs all at once; "
        "choose orpo": config.preference == "dpo",
    }
    problems = [reason for reason, applies in reasons.items() if applies]
    if problems:
        raise SpecError(f"shard and {'; shard and '.join(problems)}")
