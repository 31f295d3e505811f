"""The training loop: batch, loss, backward, step, log.

Knows nothing of files: what is to be recorded, evaluated and saved goes to the run's `Observer`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from time import perf_counter, process_time
from typing import Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from loralab.core.adapter import Adapter
from loralab.machine import give_back_free_memory
from loralab.processes.gradients import add_up_gradients
from loralab.processes.group import ALONE, Processes
from loralab.training.chance import draw_apart
from loralab.training.check import every_parameter_has_a_gradient, step_is_finite
from loralab.training.config import TrainConfig
from loralab.training.data import StepData, TrainingData
from loralab.training.objective import Objective
from loralab.training.optimizer import NamedAdamW, rate_factor, set_rate, warmup_steps

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
    optimizer: NamedAdamW
    data: TrainingData
    objective: Objective
    processes: Processes = ALONE

    def add_up(self, loss: float) -> float:
        """Over the processes of the run: the gradients, in place, and the loss."""
        bearing = chain(self.optimizer.named_parameters(), self.adapter.named_parameters())
        return add_up_gradients(self.processes, (parameter for _, parameter in bearing), loss)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What bears the gradients, in the adapter's order and under its names."""
        bearing = dict(self.optimizer.named_parameters())
        return ((name, bearing[name]) for name, _ in self.adapter.named_parameters())

    def parameters(self) -> Iterator[nn.Parameter]:
        """What bears the gradients."""
        return (parameter for _, parameter in self.named_parameters())


class HasParameters(Protocol):
    """What gradients are of: an adapter, or a trainee, whose optimizer may have projected them."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """What bears the gradients."""


class Observer(Protocol):
    """What happens after each step."""

    def after_step(self, record: StepRecord) -> bool:
        """Record, evaluate and save as due; False stops the run early."""


def run_steps(
    trainee: Trainee, config: TrainConfig, first: int, last: int, observer: Observer, of: int | None = None
) -> None:
    """Train from step `first` to step `last`, of a run of `of` steps (without it, of `last`)."""
    total = last if of is None else of
    trainee.model.train()
    for step in range(first, last + 1):
        if not conclude(trainee, config, pass_of(trainee, config, step), total, observer):
            return


@dataclass(frozen=True)
class Pass:
    """The forward and backward passes of one step: what trains bears its gradients."""

    step: int
    data: StepData
    loss: float
    seconds: float
    processor_seconds: float


def pass_of(trainee: Trainee, config: TrainConfig, step: int) -> Pass:
    """Its gradients, added to what trains."""
    clock = Clock()
    data = trainee.data.step(step)
    draw_apart(trainee.processes, config.seed, step)
    loss = trainee.objective.backward(data)
    return Pass(step, data, loss, *clock.spent())


def conclude(trainee: Trainee, config: TrainConfig, done: Pass, total: int, observer: Observer) -> bool:
    """Make the step, of a run of `total`, whose gradients are there; whether the run goes on after it."""
    clock, step, data = Clock(), done.step, done.data
    rate = set_rate(trainee.optimizer, rate_factor(step, total, warmup_steps(config.warmup, total), config.schedule))
    loss = trainee.add_up(done.loss)
    trainee.optimizer.gather()
    norm = clip_gradients(trainee, config.clip)
    check_step(step, loss, norm, data, trainee)
    trainee.optimizer.step()
    trainee.optimizer.zero_grad(set_to_none=True)
    if step % STEPS_BETWEEN_TRIMS == 0:
        give_back_free_memory()
    seconds, processor_seconds = clock.spent()
    spent = done.seconds + seconds, done.processor_seconds + processor_seconds
    return observer.after_step(StepRecord(step, loss, rate, norm, data.tokens, *spent))


def check_step(step: int, loss: float, norm: float, data: StepData, trainee: Trainee) -> None:
    """Raise TrainingError where a step gave nothing to go on with."""
    step_is_finite(loss, norm, step, data)
    if step == 1:
        every_parameter_has_a_gradient(trainee.adapter, trainee.named_parameters())


class Clock:
    """The time since it was made."""

    def __init__(self) -> None:
        self._started, self._worked = perf_counter(), process_time()

    def spent(self) -> tuple[float, float]:
        """Seconds, and processor seconds summed over threads."""
        return perf_counter() - self._started, process_time() - self._worked


def clip_gradients(trained: HasParameters, largest: float) -> float:
    """Scale all gradients so that their norm is at most `largest` (0: leave them); returns the norm before."""
    gradients = [parameter.grad for parameter in trained.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if largest:
        torch.nn.utils.clip_grads_with_norm_(list(trained.parameters()), largest, norm)
    return float(norm)
