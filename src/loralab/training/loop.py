"""The training loop: batch, loss, backward, step, log.

Knows nothing of files: what is to be recorded, evaluated and saved goes to the run's `Observer`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import PreTrainedModel

from loralab.core.adapter import Adapter
from loralab.machine import give_back_free_memory
from loralab.tasks.encoding.batches import Batch
from loralab.training.check import every_parameter_has_a_gradient, step_is_finite
from loralab.training.config import TrainConfig
from loralab.training.consistency import consistent_loss_sum
from loralab.training.data import StepData, TrainingData
from loralab.training.neighbour_cosine import NeighbourCosine, watched
from loralab.training.objective import batch_loss_sum
from loralab.training.optimizer import set_rate, trained_parameters
from loralab.training.projected_adamw import ProjectedAdamW
from loralab.training.schedule import rate_factor, warmup_steps

STEPS_BETWEEN_TRIMS = 16
"""A trim costs milliseconds and the pages that are touched again after it; the heap grows by 0.3 GB in 25 steps."""


@dataclass(frozen=True)
class StepRecord:
    """What one step did."""

    step: int
    loss: float
    """Nats per target token (or per label) over the whole step."""
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float
    processor_seconds: float
    """Of all threads together; what else the machine does hardly moves it."""


@dataclass
class Trainee:
    """All that changes during training, and what it learns from."""

    model: PreTrainedModel
    adapter: Adapter
    optimizer: AdamW
    data: TrainingData
    kind: str
    regularizer: NeighbourCosine | None = None
    consistency: float = 0.0
    """λ of the consistency loss; 0: one forward pass per batch."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What bears the gradients, in the adapter's order and under its names."""
        bearing = dict(trained_parameters(self.optimizer))
        return ((name, bearing[name]) for name, _ in self.adapter.named_parameters())

    def parameters(self) -> Iterator[nn.Parameter]:
        """The same without names."""
        return (parameter for _, parameter in self.named_parameters())


class HasParameters(Protocol):
    """What gradients are of: an adapter, or a trainee, whose optimizer may have projected them."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """What bears the gradients."""


class Observer(Protocol):
    """What happens after each step."""

    def after_step(self, record: StepRecord) -> bool:
        """Record, evaluate and save as due; False stops the run early."""


def run_steps(trainee: Trainee, config: TrainConfig, first: int, last: int, observer: Observer) -> None:
    """Train from step `first` to step `last`, of a run of `last` steps."""
    warmup = warmup_steps(config.warmup, last)
    trainee.model.train()
    for step in range(first, last + 1):
        started, worked = perf_counter(), process_time()
        data = trainee.data.step(step)
        rate = set_rate(trainee.optimizer, rate_factor(step, last, warmup, config.schedule))
        loss = accumulate_gradients(trainee, data, config.label_smoothing)
        if isinstance(trainee.optimizer, ProjectedAdamW):
            trainee.optimizer.gather()
        norm = clip_gradients(trainee, config.clip)
        step_is_finite(loss, norm, step, data)
        if step == 1:
            every_parameter_has_a_gradient(trainee.adapter, trainee.named_parameters())
        trainee.optimizer.step()
        trainee.optimizer.zero_grad(set_to_none=True)
        if step % STEPS_BETWEEN_TRIMS == 0:
            give_back_free_memory()
        spent = perf_counter() - started, process_time() - worked
        record = StepRecord(step, loss, rate, norm, data.tokens, *spent)
        if not observer.after_step(record):
            return


def accumulate_gradients(trainee: Trainee, data: StepData, label_smoothing: float = 0.0) -> float:
    """The gradient of the mean loss over all targets of the step, batch by batch; returns that loss.

        loss = Σ_i w_i Σ_t loss_it / Σ_i w_i n_i        (example i of weight w_i, 1 unless given, with n_i targets)

    Every batch's summed loss is divided by what the step's targets count together, so the gradient is the one that a
    single batch of all examples would give. A regulariser is added to what is minimised, not to what is returned.
    """
    total = 0.0
    for batch in data.batches:
        here = batch.to(trainee.model.device)
        with watched(trainee.regularizer):
            loss, objective = _losses(trainee, here, data.mass, label_smoothing)
        if trainee.regularizer is not None:
            objective = objective + trainee.regularizer.penalty(here) * (batch.targets / data.targets)
        objective.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def _losses(trainee: Trainee, batch: Batch, mass: float, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """(the batch's share of the step's loss, what is minimised: the same, and the consistency loss if there is one)."""
    if not trainee.consistency:
        loss = batch_loss_sum(trainee.model, batch, trainee.kind, label_smoothing) / mass
        return loss, loss
    task, disagreement = consistent_loss_sum(trainee.model, batch, trainee.kind, label_smoothing, trainee.consistency)
    return task / mass, (task + disagreement) / mass


def clip_gradients(trained: HasParameters, largest: float) -> float:
    """Scale all gradients so that their norm is at most `largest` (0: leave them); returns the norm before."""
    gradients = [parameter.grad for parameter in trained.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if largest:
        torch.nn.utils.clip_grads_with_norm_(list(trained.parameters()), largest, norm)
    return float(norm)
