"""The memory that a training will take at its peak, in bytes, from shapes alone.

    weights      the base in its dtype (quantised layers as they are packed), what trains in float32
    gradients    float32, of what trains                              optimizer   AdamW's two moments, float32
                 (Grass and GaLore: of a dense layer's weight [m, n] only [r, n], moments too, and the projection)
    activations  what the forward pass keeps (activations.py)         data        the encoded training set
    process      Python and the libraries                             allocator   what the C library does not give back

Gradients grow while activations are freed: what the C library would hold idle, gradients use first. Three constants
are measured, on Linux with glibc and torch's CPU build, not derived. On a GPU process and allocator are what
`gpu.py` says, and the data stay on the host.
"""

from dataclasses import dataclass, fields

from transformers import PreTrainedModel

from loralab.core.adapter import Adapter
from loralab.methods.counts import Counts, parameter_counts
from loralab.models.nf4 import UNPACKING_BYTES, quantized_layers
from loralab.planning.activations import activation_parts
from loralab.planning.gpu import idle_bytes, process_bytes
from loralab.planning.kept import projections
from loralab.planning.shape import FLOAT32, Workload
from loralab.planning.wire import frozen_blocks

PROCESS_BYTES = 650_000_000
"""564 MB once everything is imported, some 40 on first use of the kernels, some 45 in a run of hundreds of steps."""

BYTES_PER_TRAINING_TOKEN = 140
"""Of E2E (42,061 examples) and MRPC (3,668) alike, tokenizer included: ids and labels are Python integers."""

HEAP_SHARE = 0.8
"""Of the activations: how much more glibc's heap held than was in use, in runs of 60 to 800 steps of batches of many
lengths (0.5 to 1.2)."""


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a training."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    process: int
    data: int
    allocator: int

    @property
    def total(self) -> int:
        return sum(getattr(self, each.name) for each in fields(self))

    def to_json(self) -> dict[str, int]:
        """Every part and the total."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"total": self.total}


def estimate(model: PreTrainedModel, adapter: Adapter, work: Workload, counts: Counts | None = None) -> Memory:
    """The memory of training `adapter`, attached on `model` (which may be on the meta device), on batches as large as
    `work` says. On CUDA it is the memory of one GPU, with its context, and was never measured; of several GPUs that
    share a batch, `work` is what one of them has of it.
    """
    counts = parameter_counts(adapter, model) if counts is None else counts
    parts = activation_parts(model, adapter, counts, work)
    on_cpu = work.device == "cpu"
    idle = int(HEAP_SHARE * (sum(parts.values()) - parts["copies"]))
    projected = projections(adapter, model)
    moving = counts.trained - projected.whole + projected.narrow
    gradients = moving * FLOAT32 * (2 if work.gpus > 1 else 1)  # and the buckets that are exchanged
    packed = list(quantized_layers(model))
    saved = sum(layer.weights * work.dtype.itemsize - layer.packed_bytes for layer in packed)
    unpacked = UNPACKING_BYTES * max((layer.weights for layer in packed), default=0)
    elsewhere = frozen_blocks(model, adapter, work.dtype.itemsize).elsewhere(work.parts) if work.parts > 1 else 0
    return Memory(
        weights=counts.base * work.dtype.itemsize - saved - elsewhere + counts.trained * FLOAT32,
        gradients=gradients,
        optimizer=(2 * moving + projected.held) * FLOAT32,
        activations=sum(parts.values()) + unpacked,
        process=PROCESS_BYTES if on_cpu else process_bytes(),
        data=work.training_tokens * BYTES_PER_TRAINING_TOKEN if on_cpu else 0,
        allocator=max(0, idle - gradients) if on_cpu else idle_bytes(sum(parts.values())),
    )
