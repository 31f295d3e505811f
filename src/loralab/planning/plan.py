"""`plan`: what an adaptation trains, stores and needs, for a model of which only the configuration is read.

With the paper's storage arithmetic (§4.2 and footnote 4): many tasks as one base and an adapter each, in 16 bits.
"""

from dataclasses import asdict, dataclass

import torch
from transformers import PreTrainedModel

from loralab.core.adapter import Adapter
from loralab.core.attach import attach
from loralab.errors import SpecError
from loralab.methods.counts import Counts, frozen_stored, parameter_counts
from loralab.methods.lora import principal_under
from loralab.methods.prefix.update import inserted_positions
from loralab.methods.registry import specification
from loralab.models.context import context_length
from loralab.models.nf4 import quantize_model
from loralab.models.precision import choose_dtype
from loralab.planning.activations import is_in_a_table
from loralab.planning.blueprint import blueprint
from loralab.planning.config import PlanConfig
from loralab.planning.memory import Memory, estimate
from loralab.planning.shape import FLOAT32, Workload

USUAL_LENGTH = 512
"""Tokens of the longest example, unless told otherwise or the model's context is shorter."""


BYTES = 2
"""Of a parameter in float16 or bfloat16."""


@dataclass(frozen=True)
class Storage:
    """Bytes on disk for a number of tasks. The heads are left out, as the paper does."""

    count: int
    """Tasks."""
    base_bytes: int
    adapter_bytes: int
    """Of one task; of full fine-tuning it is the base again."""

    @property
    def with_adapters(self) -> int:
        """One base and an adapter for each task."""
        return self.base_bytes + self.count * self.adapter_bytes

    @property
    def with_copies(self) -> int:
        """A whole model for each task."""
        return self.count * self.base_bytes

    def to_json(self) -> dict[str, int]:
        """The parts and both sums."""
        return asdict(self) | {"with_adapters": self.with_adapters, "with_copies": self.with_copies}


def storage_of(counts: Counts, tasks: int) -> Storage:
    """For as many tasks, each adapted with as many parameters."""
    return Storage(tasks, counts.base * BYTES, counts.method * BYTES)


@dataclass(frozen=True)
class PlanResult:
    """What came of a plan. Parameters are numbers, everything else is bytes."""

    model: str
    method: str
    total_params: int
    """Of the base, as `train` counts it."""
    trainable_params: int
    """Trained by the method; a classification head is counted apart."""
    head_params: int
    adapter_bytes: int
    """On disk as `save` writes it, in float32: the method's tensors and the head's."""
    dtype: str
    batch_size: int
    sequence_length: int
    memory: Memory
    tasks: Storage
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The answer in plain types."""
        return asdict(self) | {"memory": self.memory.to_json(), "tasks": self.tasks.to_json()}


def plan(config: PlanConfig) -> PlanResult:
    """Attach the method to the model's blueprint and count; no weight is loaded or made.

    Raises SpecError for numbers that cannot be, NotFoundError or ModelLoadError for the model, TargetError for a method
    that it cannot take.
    """
    config.validate()
    model = blueprint(config.model, config.labels)
    dtype, reason = choose_dtype(config.dtype, torch.device("cpu" if config.dtype == "auto" else config.device))
    method = specification(config)
    if config.quantize is not None:
        quantize_model(model, double=config.quantize == "nf4-double", principal=principal_under(model, method))
    adapter = attach(model, method)
    counts = parameter_counts(adapter, model)
    length = _length(config, model, inserted_positions(adapter.updates))
    work = Workload(
        batch=config.batch_size,
        tokens=length,
        targets=config.batch_size * _targets(config, length),
        dtype=dtype,
        gradient_checkpointing=config.gradient_checkpointing,
        device=config.device,
        training_tokens=config.training_tokens,
    )
    memory, notes = estimate(model, adapter, work, counts), (reason, *adapter.notes, *_notes(config, model))
    return _result(config, adapter, counts, work, memory, notes)


def _result(
    config: PlanConfig, adapter: Adapter, counts: Counts, work: Workload, memory: Memory, notes: tuple[str, ...]
) -> PlanResult:
    return PlanResult(
        model=config.model,
        method=config.method,
        total_params=counts.base,
        trainable_params=counts.method,
        head_params=counts.head,
        adapter_bytes=(counts.trained + frozen_stored(adapter)) * FLOAT32,
        dtype=str(work.dtype).removeprefix("torch."),
        batch_size=work.batch,
        sequence_length=work.tokens,
        memory=memory,
        tasks=storage_of(counts, config.tasks),
        notes=notes,
    )


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


def _targets(config: PlanConfig, length: int) -> int:
    if config.target_tokens is not None and config.target_tokens > length:
        raise SpecError(f"target_tokens {config.target_tokens} is more than the {length} tokens of an example")
    return length if config.target_tokens is None else config.target_tokens


def _notes(config: PlanConfig, model: PreTrainedModel) -> list[str]:
    notes = []
    if not is_in_a_table(model):
        notes.append(f"memory: blocks of {model.config.model_type} are estimated as those of a similar kind")
    if config.device != "cpu":
        notes.append(f"memory: never measured on {config.device}")
    return notes
