"""A run's measurements on held-out data: of the base before step 1, at every evaluation, and at the end.

All are of the same examples, and none moves a random generator or the order of the data: a run that measures learns
what one that does not measure learns, bit for bit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from loralab.core.attach import disabled
from loralab.errors import LoralabError, TrainingError, first_line
from loralab.evaluation.evaluate import Evaluation, evaluate
from loralab.processes.group import Processes
from loralab.training.config import TrainConfig
from loralab.training.interrupt import Interruption
from loralab.training.log.boards import Boards
from loralab.training.log.journal import Journal
from loralab.training.log.progress import ShowsProgress
from loralab.training.log.samples import Chosen, Reply, SampleFile, in_short
from loralab.training.prepare import Prepared

BASE = 0
"""The step at which the base is measured."""


def measured(result: Evaluation) -> dict[str, float]:
    """The loss, where the labels are known, and the metrics."""
    return ({} if result.loss is None else {"loss": result.loss}) | result.metrics


@dataclass
class Measurer:
    """Measures, writes it down and says it."""

    config: TrainConfig
    prepared: Prepared
    journal: Journal
    samples: SampleFile
    boards: Boards
    progress: ShowsProgress
    interruption: Interruption
    chosen: Chosen | None = field(init=False)
    """What is asked beside; None where nothing is."""
    said: dict[int, list[Reply]] = field(default_factory=dict)
    """The samples of this process by their step."""

    def __post_init__(self) -> None:
        split, count = self.prepared.held_out, self.config.samples
        asks = split is not None and count and measures(self.config) and not self.prepared.processes.in_step
        self.chosen = Chosen.of(self.prepared.task, split, self._limit, count) if split and asks else None

    @property
    def _limit(self) -> int | None:
        return None if self.config.best_epoch else self.config.eval_limit

    def measure_base(self) -> None:
        """The base alone, whatever adapter is on it."""
        with disabled(self.prepared.loaded.model):
            self.measure(BASE)

    def measure(self, step: int, *, leave: bool = True) -> Evaluation | None:
        """The scores of the model as it is now, recorded under `step`; None where the task has nothing held out.

        Raises `Asked` where the run was asked to stop meanwhile, unless it is not to `leave`: nothing is recorded then.
        """
        if self.prepared.held_out is None:
            return None
        looking = self.interruption.only_looking() if leave else nullcontext()
        with self.progress.doing("measuring"), _chance_untouched(), looking:
            result = self._evaluate(self.prepared.held_out, self._sharing(leave))
            _check_finite(result, step)
            said = self._ask(step, result)
        self._record(step, result, said)
        return result

    def _sharing(self, leave: bool) -> Processes:
        """The processes that share the work out, and leave it where one was asked to stop."""
        processes = self.prepared.processes
        return replace(processes, may_go_on=self.interruption.check_here) if leave else processes

    def _evaluate(self, split: str, processes: Processes) -> Evaluation:
        return evaluate(
            self.prepared.loaded.model,
            self.prepared.loaded.processor,
            self.prepared.task,
            split,
            limit=self._limit,
            batch_size=self.config.batch_size,
            max_length=self.config.max_length,
            processes=processes,
        )

    def _ask(self, step: int, result: Evaluation) -> list[Reply]:
        """Samples are for people to look at: a model that cannot give them is trained all the same."""
        if self.chosen is None:
            return []
        try:
            return self.chosen.ask(self.prepared.loaded, result, step, self.config.max_length, self.prepared.processes)
        except (LoralabError, RuntimeError, TypeError, ValueError, AttributeError) as problem:
            self.progress.say(f"no samples are taken from here on: {first_line(problem)}")
            self.chosen = None
            return []

    def _record(self, step: int, result: Evaluation, said: list[Reply]) -> None:
        scores = measured(result)
        self.journal.write({"step": step, "split": self.prepared.held_out, **scores})
        self.samples.write(said)
        self.boards.replies(said)
        self.said[step] = said
        named = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
        self.progress.say(f"{f'step {step}' if step else 'before training'}  {self.prepared.held_out}  {named}")
        for each in said:
            self.progress.say_short(in_short(each, beside_wanted=self.prepared.task.model_kind != "generation"))


def _check_finite(result: Evaluation, step: int) -> None:
    """Raises TrainingError where the adapter has left what numbers can say, though its own losses had not yet."""
    wrong = [f"{name} is {value}" for name, value in measured(result).items() if not math.isfinite(value)]
    if wrong:
        raise TrainingError(f"on held-out data the {' and the '.join(wrong)} after step {step}; lower lr, or use clip")


def measures(config: TrainConfig) -> bool:
    """Whether a run looks at held-out data at all."""
    return config.eval_limit > 0 or config.best_epoch


@contextmanager
def _chance_untouched() -> Iterator[None]:
    """Whatever draws random numbers inside, torch's generators are afterwards as before."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


def scores_before(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The base's scores from the entries of a journal; empty where it was not measured."""
    of_base = [each for each in entries if each["step"] == BASE and each["split"] != "train"]
    return {name: value for name, value in of_base[-1].items() if name not in ("step", "split")} if of_base else {}
