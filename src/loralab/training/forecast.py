"""What a run's memory should peak at, from the longest batch that its data can make: said beside what it took."""

from dataclasses import replace
from math import ceil

from loralab.models.families.aliases import family_of
from loralab.planning.memory import Memory, estimate
from loralab.planning.shape import Workload
from loralab.tasks.encoding.encoded import EncodedPair
from loralab.training.config import TrainConfig
from loralab.training.prepare import Prepared
from loralab.training.several.sharding import parts_of

PLANNED = ("decoder", "encoder")
"""Architectures that are planned: of text, with one list of blocks. Runs on pairs of answers are not."""


def forecast(prepared: Prepared, config: TrainConfig) -> Memory | None:
    """The estimate of `planning` for the run that is prepared; None for models whose blocks it has no table of."""
    work = workload(prepared, config)
    if work is None:
        return None
    return without_context(estimate(prepared.loaded.model, prepared.trainee.adapter, work), work)


def workload(prepared: Prepared, config: TrainConfig) -> Workload | None:
    """The longest batch that the run's data can make; None where that is not planned."""
    model, trainee = prepared.loaded.model, prepared.trainee
    family = family_of(model)
    if family is None or family.architecture not in PLANNED:
        return None
    if any(isinstance(each, EncodedPair) for each in trainee.data.encoded[:1]):
        return None
    share = ceil(config.batch_size / prepared.processes.count)
    longest = sorted(trainee.data.encoded, key=lambda each: -each.tokens)[:share]
    return Workload(
        batch=len(longest),
        tokens=longest[0].tokens,
        targets=sum(each.targets for each in longest),
        dtype=prepared.loaded.dtype,
        gradient_checkpointing=config.gradient_checkpointing,
        device=model.device.type,
        gpus=prepared.processes.count,
        parts=parts_of(config.shard, prepared.processes),
        training_tokens=sum(each.tokens for each in trainee.data.encoded),
    )


def without_context(predicted: Memory, work: Workload) -> Memory:
    """On a GPU it is compared with what torch has reserved, of which the context is no part."""
    return predicted if work.device == "cpu" else replace(predicted, process=0)


def comparison(predicted: Memory, measured: int) -> str:
    """A sentence for the log, in MB of 10⁶ bytes."""
    names = ("weights", "gradients", "optimizer", "activations")
    parts = ", ".join(f"{name} {getattr(predicted, name) / 1e6:,.0f}" for name in names)
    total = f"{predicted.total / 1e6:,.0f} MB predicted at the longest batch"
    return f"memory: {total} ({parts}); {measured / 1e6:,.0f} MB after this step"
