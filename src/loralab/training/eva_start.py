"""A run's adapter started from its own data (EVA): the batches of its first steps, in the run's own order.

A resumed run takes the ranks from its checkpoint, which holds the values of A as well: it needs no data for that, and
cannot come to other ranks on another machine.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

from torch import Tensor, nn

from loralab.core.adapter import Adapter
from loralab.core.attach import attach
from loralab.core.plan import Method
from loralab.errors import SpecError
from loralab.methods.eva.method import attach_eva, places_of, with_ranks
from loralab.methods.lora import LoRA
from loralab.training.checkpoint import Checkpoint, newest_checkpoint
from loralab.training.config import TrainConfig
from loralab.training.data import TrainingData
from loralab.training.folder import RunFolder


def attach_from_data(config: TrainConfig, method: Method, model: nn.Module, data: TrainingData) -> Adapter:
    """Attach `method`, a LoRA, as EVA starts it from at most `config.eva_batches` batches of one pass over `data`.

    Raises SpecError for another method, and whatever `attach_eva` raises.
    """
    if not isinstance(method, LoRA):
        raise SpecError(
            f"init eva was asked for with method {config.method}; it starts the A of a LoRA: give a method that is "
            "one, or leave init out"
        )
    checkpoint = newest_checkpoint(RunFolder(Path(config.out)).checkpoints) if config.resume else None
    if checkpoint:
        return _as_before(method, model, checkpoint)
    batches = islice(_batches(data), config.eva_batches)
    return attach_eva(model, method, batches, rho=config.eva_rho, tau=config.eva_tau)


def _batches(data: TrainingData) -> Iterator[Mapping[str, Tensor]]:
    """What the model is called with in the run's first epoch, batch by batch, with the labels."""
    for step in range(1, data.steps_per_epoch + 1):
        for batch in data.step(step).batches:
            yield dict(batch.inputs) if batch.labels is None else {**batch.inputs, "labels": batch.labels}


def _as_before(spec: LoRA, model: nn.Module, checkpoint: Checkpoint) -> Adapter:
    """The adapter in the ranks of the checkpoint, whose values will be put into it."""
    plain = replace(spec, init="kaiming")
    places = places_of(plain, model, rho=1.0)
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    ranks = {place.name: int(shapes.get(f"adapter/{place.tensor}", (0,))[0]) for place in places}
    adapter = attach(model, with_ranks(plain, model, places, ranks))
    adapter.notes.append(f"EVA: ranks and values as in the checkpoint of step {checkpoint.step}")
    return adapter
