"""Everything that a plan can be told. Imports no torch, so that `--help` is quick."""

from dataclasses import dataclass, field
from typing import Literal

from loralab.errors import SpecError
from loralab.methods.settings import MethodSettings
from loralab.planning.gpu import bytes_of

LARGEST = 10**9
"""No batch, sequence or number of tasks is larger than this; what is, was mistyped."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig(MethodSettings):
    """One plan: a model, how to adapt it, and the batches of the training."""

    model: str
    """A preset (gpt3-175b, roberta-base, llama-3-8b, …), an embedded name (smollm2-135m, minilm-l6), a local folder,
    of which config.json is enough, or a Hub id."""

    labels: int | None = field(default=None, metadata={"group": "model"})
    """Classes of a classification head, which encoders always have (2) and which makes a classifier of any other."""

    batch_size: int = field(default=16, metadata={"group": "batches"})
    """Examples in a batch."""

    adapters: int = field(default=1, metadata={"group": "batches"})
    """Adapters of this kind that train side by side on one base, as those of tune do; the batch is that of each."""

    sequence_length: int | None = field(default=None, metadata={"group": "batches"})
    """Tokens of the longest example of a batch; without it 512, or what fits into the model's context."""

    target_tokens: int | None = field(default=None, metadata={"group": "batches"})
    """Of them, tokens that a language model's loss is taken on; without it all."""

    training_tokens: int = field(default=0, metadata={"group": "batches"})
    """Tokens of the whole training set, which stays in memory while it is trained on."""

    gradient_checkpointing: bool = field(default=False, metadata={"group": "run"})
    """Compute each block again in the backward pass."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(default="auto", metadata={"group": "run"})
    """Precision of the frozen base; auto is what this machine would choose. What trains has float32."""

    quantize: Literal["nf4", "nf4-double"] | None = field(default=None, metadata={"group": "run"})
    """Keep the dense layers of the frozen base in 4 bits."""

    device: Literal["cpu", "cuda"] = field(default="cpu", metadata={"group": "run"})
    """Where the training would run. Estimates for CPUs are held against runs; those for GPUs are of published figures,
    and nothing was measured on one."""

    gpu_memory: str | None = field(default=None, metadata={"group": "run"})
    """Memory of a GPU, as 24GB (10⁹ bytes) or 24GiB: says whether the training fits, the largest batch that does, and
    what to change. It plans for cuda."""

    gpus: int = field(default=1, metadata={"group": "run"})
    """GPUs that share every batch, each with the whole base unless it is sharded. The memory is that of one of them."""

    shard: bool = field(default=False, metadata={"group": "run"})
    """Each GPU holds a part of the frozen blocks and gathers a block when it computes it, as train's --shard does."""

    tasks: int = field(default=100, metadata={"group": "storage"})
    """Tasks to store: one base and an adapter each, against a whole model each, all in 16 bits (paper §4.2)."""

    def validate(self) -> None:
        """Raise one SpecError that lists everything wrong with the values, or return."""
        problems = [*self.method_problems(), *_out_of_range(self)]
        if not problems and self.gpus > self.batch_size:
            problems.append(f"gpus {self.gpus}: a batch of {self.batch_size} has not an example for each")
        if not problems and self.shard and self.gpus < 2:
            problems.append(f"shard and gpus {self.gpus}: there is nobody to share the base with; give --gpus")
        if problems:
            raise SpecError("invalid plan: " + "; ".join(problems))
        if self.gpu_memory is not None:
            bytes_of(self.gpu_memory)

    @property
    def on_gpu(self) -> bool:
        """Whether it is planned for one."""
        return self.device == "cuda" or self.gpu_memory is not None or self.gpus > 1


def _out_of_range(config: PlanConfig) -> list[str]:
    least = dict.fromkeys(("labels", "batch_size", "adapters", "sequence_length", "target_tokens", "tasks", "gpus"), 1)
    least |= {"training_tokens": 0}
    most = {"training_tokens": 10**15}
    found = []
    for name, lowest in least.items():
        value, highest = getattr(config, name), most.get(name, LARGEST)
        if value is not None and (not isinstance(value, int) or not lowest <= value <= highest):
            found.append(f"{name} {value!r}: it must be a whole number from {lowest} to {highest:,}")
    return found
