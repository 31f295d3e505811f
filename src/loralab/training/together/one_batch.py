"""A step of several runs as one pass: the rows of all their batches in one batch, each under its own run's adapter.

    minimised    Σ_k loss_k / mass_k,    whose gradient in the tensors of run k is that of its own loss alone

The frozen base multiplies fewer and larger matrices. A row's numbers depend on no other row, so each run has the
gradient that it has alone, but for rounding: `passes.py` looks whether it does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from loralab.core.adapter import adapters_of
from loralab.core.attach import rows
from loralab.planning.several import mixes
from loralab.tasks.encoding.batches import Batch, collate
from loralab.tasks.encoding.encoded import Encoded
from loralab.training.data import StepData
from loralab.training.loop import Trainee
from loralab.training.objective import TaskLoss


@dataclass(frozen=True)
class RunRows:
    """What one run brings to the batch."""

    name: str
    """Of its adapter on the model."""
    trainee: Trainee
    data: StepData

    @property
    def examples(self) -> list[Encoded]:
        """Its rows."""
        found = [self.trainee.data.encoded[place] for batch in self.data.batches for place in batch.places]
        return [each for each in found if isinstance(each, Encoded)]


def why_not_joined(trainee: Trainee) -> str | None:
    """What keeps a run's rows out of a batch with those of others; None where nothing does."""
    if not mixes(trainee.adapter):
        return "not all that trains is low-rank updates without dropout"
    if not isinstance(trainee.objective, TaskLoss):
        return "what is minimised is not of single rows"
    if trainee.data.accumulate > 1:
        return "a step is several batches"
    if trainee.model.config.is_encoder_decoder or not isinstance(trainee.data.encoded[0], Encoded):
        return "the rows are not plain texts"
    return None


def joint_pass(model: PreTrainedModel, runs: Sequence[RunRows]) -> list[float]:
    """Add the gradients of a step of each run to what it trains; returns the loss that each reports.

    Raises AdapterStateError where the model's rows cannot be told apart.
    """
    owners = [number for number, run in enumerate(runs) for _ in run.examples]
    batch = _joint_batch(runs).to(model.device)
    objective = runs[0].trainee.objective
    assert isinstance(objective, TaskLoss)
    with rows(model, [runs[number].name for number in owners]):
        # The loss may call the model's body alone, where nobody asks for the proof.
        adapters_of(model).row_proofs.before(model, (), dict(batch.inputs))
        losses_B = objective.by_row(batch)
        losses_B.sum().backward()  # type: ignore[no-untyped-call]
    summed = losses_B.new_zeros(len(runs)).index_add(0, torch.tensor(owners, device=losses_B.device), losses_B.detach())
    return [float(each) for each in summed]


def _joint_batch(runs: Sequence[RunRows]) -> Batch:
    """All rows, each weighted by its own weight over the mass of its run's step."""
    data = runs[0].trainee.data
    batch = collate([each for run in runs for each in run.examples], data.pad_id, longest=data.longest)
    weights = [each.weight / run.data.mass for run in runs for each in run.examples]
    return replace(batch, weights=torch.tensor(weights))
