"""`plan`: what an adaptation trains, stores and needs, for a model of which only the configuration is read.

With the paper's storage arithmetic (§4.2 and footnote 4): many tasks as one base and an adapter each, in 16 bits.
"""

from dataclasses import asdict, dataclass

from loralab.methods.counts import frozen_stored
from loralab.planning.config import PlanConfig
from loralab.planning.fit import Fit, fit
from loralab.planning.memory import Memory
from loralab.planning.shape import FLOAT32
from loralab.planning.training import planned
from loralab.planning.wire import Wire

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
    device: str
    gpus: int
    """The memory is that of one of them."""
    adapters: int
    """That train side by side on one base; what trains and the bytes on disk are of one."""
    batch_size: int
    """Of each of them."""
    sequence_length: int
    memory: Memory
    wire: Wire
    """Between GPUs that share a batch."""
    fit: Fit | None
    """Whether it fits a GPU, where the size of one was given."""
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
    training = planned(config)
    counts = training.counts
    return PlanResult(
        model=config.model,
        method=config.method,
        total_params=counts.base,
        trainable_params=counts.method,
        head_params=counts.head,
        adapter_bytes=(counts.trained + frozen_stored(training.adapter)) * FLOAT32,
        dtype=str(training.dtype).removeprefix("torch."),
        device="cuda" if config.on_gpu else "cpu",
        gpus=config.gpus,
        adapters=config.adapters,
        batch_size=config.batch_size,
        sequence_length=training.length,
        memory=training.memory(config.batch_size),
        wire=training.wire,
        fit=None if config.gpu_memory is None else fit(training),
        tasks=Storage(config.tasks, counts.base * BYTES, counts.method * BYTES),
        notes=training.notes,
    )
