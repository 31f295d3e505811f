"""A training that is planned: the method attached on a blueprint, ready to be weighed at any batch."""

from dataclasses import dataclass
from math import ceil

import torch
from transformers import PreTrainedModel

from loralab.core.adapter import Adapter
from loralab.core.attach import attach
from loralab.errors import SpecError
from loralab.methods.counts import Counts, parameter_counts
from loralab.methods.lora import principal_under
from loralab.methods.prefix.update import inserted_positions
from loralab.methods.registry import specification
from loralab.models.context import context_length
from loralab.models.nf4 import quantize_model
from loralab.models.precision import choose_dtype
from loralab.planning.activations import is_in_a_table
from loralab.planning.blueprint import blueprint
from loralab.planning.config import PlanConfig
from loralab.planning.gpu import NOTE
from loralab.planning.memory import Memory, estimate
from loralab.planning.several import estimate_several
from loralab.planning.shape import Workload
from loralab.planning.wire import Wire, frozen_blocks, wire

USUAL_LENGTH = 512
"""Tokens of the longest example, unless told otherwise or the model's context is shorter."""


@dataclass(frozen=True)
class PlannedTraining:
    """Everything but the batch."""

    config: PlanConfig
    model: PreTrainedModel
    adapter: Adapter
    counts: Counts
    dtype: torch.dtype
    length: int
    """Tokens of the longest example."""
    notes: tuple[str, ...]

    def memory(self, batch_size: int) -> Memory:
        """Of one device, at this batch of all of them together."""
        batch, config = ceil(batch_size / self.config.gpus), self.config
        work = Workload(
            batch=batch,
            tokens=self.length,
            targets=batch * (self.length if config.target_tokens is None else config.target_tokens),
            dtype=self.dtype,
            gradient_checkpointing=config.gradient_checkpointing,
            device="cuda" if config.on_gpu else "cpu",
            gpus=config.gpus,
            parts=config.gpus if config.shard else 1,
            training_tokens=config.training_tokens,
        )
        if config.adapters > 1:
            return estimate_several(self.model, [self.adapter] * config.adapters, work)
        return estimate(self.model, self.adapter, work, self.counts)

    @property
    def wire(self) -> Wire:
        """What each GPU sends."""
        blocks = frozen_blocks(self.model, self.adapter, self.dtype.itemsize) if self.config.shard else None
        return wire(self.counts.trained, blocks, self.config.gpus)


def planned(config: PlanConfig) -> PlannedTraining:
    """Attach the method to the model's blueprint; no weight is loaded or made.

    Raises SpecError for numbers that cannot be, NotFoundError or ModelLoadError for the model, TargetError for a method
    that it cannot take.
    """
    model = blueprint(config.model, config.labels)
    dtype, reason = _dtype(config)
    method = specification(config)
    if config.quantize is not None:
        quantize_model(model, double=config.quantize == "nf4-double", principal=principal_under(model, method))
    adapter = attach(model, method)
    length = _length(config, model, inserted_positions(adapter.updates))
    if config.target_tokens is not None and config.target_tokens > length:
        raise SpecError(f"target_tokens {config.target_tokens} is more than the {length} tokens of an example")
    notes = (reason, *adapter.notes, *_notes(config, model))
    return PlannedTraining(config, model, adapter, parameter_counts(adapter, model), dtype, length, notes)


def _dtype(config: PlanConfig) -> tuple[torch.dtype, str]:
    """As asked, or what this machine would choose; a GPU is not asked, for it may be elsewhere."""
    if config.on_gpu and config.dtype == "auto":
        return torch.bfloat16, "bfloat16: GPUs since Ampere multiply it natively; for older ones give --dtype float32"
    return choose_dtype(config.dtype, torch.device("cpu"))


def _length(config: PlanConfig, model: PreTrainedModel, inserted: int) -> int:
    """Tokens of the longest example. Raises SpecError where it does not fit into the model's context."""
    context = context_length(model)
    room = USUAL_LENGTH if context is None else context - inserted
    asked = config.sequence_length
    if room < 1 or (asked is not None and context is not None and asked > room):
        raise SpecError(
            f"{'an example' if asked is None else f'sequence_length {asked}'} and {inserted} inserted positions do not "
            f"fit {config.model}, which has a context of {context}: shorten the one or the other"
        )
    return min(USUAL_LENGTH, room) if asked is None else asked


def _notes(config: PlanConfig, model: PreTrainedModel) -> list[str]:
    notes = [f"without effect: {sentence}" for sentence in config.idle_settings()]
    if not is_in_a_table(model):
        notes.append(f"memory: blocks of {model.config.model_type} are estimated as those of a similar kind")
    if config.on_gpu:
        notes.append(NOTE)
    return notes
