"""How a step of several runs is computed: a pass of each in turn, or one pass over the rows of all of them.

Which is faster is measured on the first steps, both ways on the same data, and said; so is why it cannot be the one
pass where that is so. It never is where chance is drawn (dropout): every run has a random stream of its own. What the
steps learn from while both are measured are the gradients of the passes in turn.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loralab.errors import AdapterStateError, first_line
from loralab.training.loop import Clock, Pass, Trainee
from loralab.training.together.one_batch import RunRows, joint_pass, why_not_joined

MEASURED_STEPS = 3
"""After a first one, in which both find their memory."""
Way = Literal["in turn", "both", "one batch"]


@dataclass(frozen=True)
class ComingStep:
    """A step that is to come, of one of the runs."""

    name: str
    """Of the run's adapter on the model."""
    trainee: Trainee
    step: int
    batch_size: int

    @property
    def most_tokens(self) -> int:
        """Of a batch of the longest rows."""
        return self.trainee.data.longest * self.batch_size


@dataclass
class PassTimes:
    """What has been measured of passes of one number of runs."""

    steps: int = 0
    in_turn: float = 0.0
    """Seconds."""
    joined: float = 0.0


@dataclass
class Passes:
    """The passes of runs on one model."""

    model: PreTrainedModel
    say: Callable[[str], None]
    times: dict[int, PassTimes] = field(default_factory=dict)
    """By the number of runs."""
    refused: bool = False
    """Whether it was found that they cannot be one batch."""

    def way(self, steps: Sequence[ComingStep]) -> Way:
        """How these are to be computed: in turn, as one batch, or both ways, for it is being measured."""
        if len(steps) < 2 or self.refused:
            return "in turn"
        times = self.times.setdefault(len(steps), PassTimes())
        if times.steps <= MEASURED_STEPS:
            return "both"
        return "one batch" if times.joined < times.in_turn else "in turn"

    def joined(self, steps: Sequence[ComingStep]) -> list[Pass]:
        """One pass of all of them: what each trains bears its gradients."""
        clock = Clock()
        rows = [RunRows(each.name, each.trainee, each.trainee.data.step(each.step)) for each in steps]
        losses = joint_pass(self.model, rows)
        spent, tokens = clock.spent(), sum(row.data.tokens for row in rows)
        return [
            Pass(step.step, row.data, loss, *(each * row.data.tokens / tokens for each in spent))
            for step, row, loss in zip(steps, rows, losses, strict=True)
        ]

    def measure(self, steps: Sequence[ComingStep], passes: Sequence[Pass], *, by_chance: bool) -> None:
        """Do as one batch what these passes in turn have done, and compare: the time, and the gradients.

        What each trains bears the gradients of its pass in turn afterwards. `by_chance` says whether those drew
        random numbers.
        """
        why = "random numbers are drawn (dropout), of which each run has its own" if by_chance else None
        why = why or next(filter(None, (why_not_joined(each.trainee) for each in steps)), None)
        if why is None:
            why = self._compare(steps, passes)
        if why is not None:
            self.refused = True
            self.say(f"the runs take turns, for {why}")

    def _compare(self, steps: Sequence[ComingStep], passes: Sequence[Pass]) -> str | None:
        """Why they cannot be one batch, if they cannot."""
        wanted = [_taken_gradients(each.trainee) for each in steps]
        started = perf_counter()
        try:
            self.joined(steps)
        except AdapterStateError as problem:
            return first_line(problem)
        finally:
            seconds = perf_counter() - started
            found = [_taken_gradients(each.trainee) for each in steps]
            for step, gradients in zip(steps, wanted, strict=True):
                _set_gradients(step.trainee, gradients)
        furthest = max(map(gradient_distance, wanted, found))
        if furthest > math.sqrt(torch.finfo(self.model.dtype).eps):
            return f"as one batch their gradients come out otherwise ({furthest:.1%} of their length)"
        self._note(self.times[len(steps)], sum(each.seconds for each in passes), seconds, len(steps))
        return None

    def _note(self, times: PassTimes, in_turn: float, joined: float, runs: int) -> None:
        times.steps += 1
        if times.steps > 1:
            times.in_turn, times.joined = times.in_turn + in_turn, times.joined + joined
        if times.steps > MEASURED_STEPS:
            how = "are rows of one batch" if times.joined < times.in_turn else "take turns"
            self.say(
                f"{runs} runs {how}: a step of all takes {times.in_turn / MEASURED_STEPS:.2f} s in turn, "
                f"{times.joined / MEASURED_STEPS:.2f} s as one batch (measured on {MEASURED_STEPS} steps)"
            )


def _taken_gradients(trainee: Trainee) -> list[Tensor | None]:
    """The gradients, which are gone from there."""
    gradients = [parameter.grad for parameter in trainee.parameters()]
    _set_gradients(trainee, [None] * len(gradients))
    return gradients


def _set_gradients(trainee: Trainee, gradients: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(trainee.parameters(), gradients, strict=True):
        parameter.grad = gradient


def gradient_distance(wanted: Sequence[Tensor | None], found: Sequence[Tensor | None]) -> float:
    """‖found − wanted‖ / ‖wanted‖ of all tensors together; 0 of a run that has left what numbers can say,
    infinite where only what was found has."""
    apart = length = 0.0
    for one, other in zip(wanted, found, strict=True):
        one, other = (torch.zeros(1) if each is None else each.double().cpu() for each in (one, other))
        apart, length = apart + float((one - other).square().sum()), length + float(one.square().sum())
    if not math.isfinite(length):
        return 0.0
    if not math.isfinite(apart):
        return math.inf
    return math.sqrt(apart / length) if length else float(apart > 0)
