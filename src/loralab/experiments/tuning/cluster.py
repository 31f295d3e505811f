"""The trials of a tuning on a Ray cluster, whose machines share the folder: between two rungs each task has some of
them, side by side on a base of its own.

A trial goes on from its newest checkpoint, whoever had it before, so nothing but names travels: what was measured is in
files of the folder. A task whose worker is lost is given to another one, which takes up what that one left.
"""

import os
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGINT
from time import perf_counter
from typing import Any, TypeVar

from loralab import errors
from loralab.errors import LoralabError, OutputError, ProcessError, first_line
from loralab.experiments.cluster import PATIENCE, TRIES, accelerators, at_once, ended_of
from loralab.experiments.tuning.climb import climbing, is_done
from loralab.experiments.tuning.config import TuneConfig
from loralab.experiments.tuning.course import Course
from loralab.experiments.tuning.folder import TuneFolder, TuneState, record_judgement, take_judgements
from loralab.experiments.tuning.grid import TuneTrial, trials_of
from loralab.experiments.tuning.start import state_at_start
from loralab.extras import lazy
from loralab.machine import keep_few_kernels, peak_memory_bytes
from loralab.training.interrupt import Asked, Interruption, interruptible
from loralab.training.prepare import Ground, lay_ground
from loralab.training.together.progress import SharedProgress

ray = lazy("ray", "cluster")

Value = TypeVar("Value")

LOOKS = 20
"""How often a task looks whether a lost worker still holds its trials, `PATIENCE` seconds apart."""


@dataclass(frozen=True)
class Refusal:
    """An error of ours in a worker: exceptions with more than a message do not travel."""

    kind: str
    message: str

    def error(self) -> LoralabError:
        """The same error here."""
        found = getattr(errors, self.kind, LoralabError)
        assert issubclass(found, LoralabError)
        return found(self.message)


@dataclass(frozen=True)
class WorkerReport:
    """What a task has to say beside the files that it wrote."""

    notes: tuple[str, ...] = ()
    peak_memory_bytes: int = 0


class TuningOnCluster:
    """Who trains the trials. This process loads no model."""

    def __init__(self, config: TuneConfig) -> None:
        self.config = config
        processors, gpus = config.threads or 1, accelerators(config.device)
        self.workers = at_once(processors, gpus)
        # A worker of its own for every task: memory is measured of processes.
        self._task = ray.remote(num_cpus=processors, num_gpus=gpus, max_retries=TRIES - 1, max_calls=1)
        self.peak_memory_bytes = 0

    def state_at_start(self, progress: SharedProgress, interruption: Interruption, started: float) -> TuneState:
        """What is fixed before the first trial, from a task; raises what `start.state_at_start` raises."""
        task = self._task(_start).remote(os.getcwd(), self.config, self.workers, perf_counter() - started)
        with progress.doing("trying every rank and set of targets"), ended_of([task], interruption.check) as ended:
            state = _value(next(ended))
        assert isinstance(state, TuneState)
        return state

    def climb(self, course: Course) -> Generator[int]:
        """As `TuningHere.climb`: the trials are shared out anew for each rung."""
        for rung in course.rungs:
            due = trials_due(self.config, course.state, course.alive, rung)
            groups = [group for first in range(self.workers) if (group := due[first :: self.workers])]
            if groups:
                course.progress.say(
                    f"to step {rung}: {len(due)} trials in {len(groups)} tasks on {self.config.cluster}"
                )
            self._climb(course, groups, rung)
            yield rung

    def _climb(self, course: Course, groups: Sequence[Sequence[TuneTrial]], rung: int) -> None:
        """Take the groups to the rung, and note what each came to as it ends."""
        climb, place = self._task(_climb), os.getcwd()
        names = [[trial.name for trial in group] for group in groups]
        tasks = {climb.remote(place, self.config, course.state, group, rung): group for group in names}
        with ended_of(tasks, course.interruption.check) as ended:
            for task in ended:
                report = _value(task)
                assert isinstance(report, WorkerReport)
                take_judgements(course.folder, course.state, tasks[task], course.record)
                self.peak_memory_bytes = max(self.peak_memory_bytes, report.peak_memory_bytes)
                for note in report.notes:
                    course.note(note)
                for name in tasks[task]:
                    course.progress.say(f"{name}  {_said_of(course.state, name, rung)}")


def trials_due(config: TuneConfig, state: TuneState, trials: Sequence[TuneTrial], rung: int) -> list[TuneTrial]:
    """Those that have something left to do for this rung: to get there, to be measured, or to leave a result."""
    return [
        trial
        for trial in trials
        if trial.name not in state.stopped
        and not is_done(config, state, trial)
        and (rung == state.steps or str(rung) not in state.losses.get(trial.name, {}))
    ]


def _said_of(state: TuneState, name: str, rung: int) -> str:
    loss = state.losses.get(name, {}).get(str(rung))
    return state.stopped.get(name, "left") if loss is None else f"loss {loss:.4f} at step {rung}"


def _value(task: Any) -> Any:
    """What a task returned, which ended. Raises the error of ours that ended it, ProcessError where all its workers
    were lost."""
    try:
        value = ray.get(task)
    except ray.exceptions.RayTaskError:
        raise  # our bug
    except ray.exceptions.RayError as problem:
        raise ProcessError(
            f"no worker of the cluster came to its end with its trials, {TRIES} tries in all ({first_line(problem)}); "
            "where they stand is kept, and the same command goes on"
        ) from problem
    if isinstance(value, Refusal):
        raise value.error()
    return value


# -- in a worker ---------------------------------------------------------------------------------------------------


def _start(place: str, config: TuneConfig, workers: int, spent: float) -> TuneState | Refusal:
    started = perf_counter() - spent

    def start() -> TuneState:
        ground = _ground(config, config.dtype)
        with SharedProgress() as progress:
            return state_at_start(config, ground, progress, started, workers)

    return _answered(place, start)


def _climb(place: str, config: TuneConfig, state: TuneState, names: list[str], rung: int) -> WorkerReport | Refusal:
    """Take these trials to the rung, or what is left to do of it after a worker that was lost."""

    def climb() -> WorkerReport:
        for _ in range(LOOKS):
            try:
                return _climbed(config, state, names, rung)
            except OutputError:  # the lost worker's process may hold them yet
                time.sleep(PATIENCE)
        return _climbed(config, state, names, rung)

    return _answered(place, climb)


def _climbed(config: TuneConfig, state: TuneState, names: Sequence[str], rung: int) -> WorkerReport:
    folder = TuneFolder(Path(config.out))
    take_judgements(folder, state, names)
    state = replace(state, notes=[])
    trials = trials_due(config, state, [trial for trial in trials_of(config) if trial.name in names], rung)
    if not trials:
        return WorkerReport()
    ground = _ground(config, state.dtype or config.dtype)
    try:
        with (
            SharedProgress() as progress,
            interruptible() as interruption,
            climbing(
                config, state, trials, ground, progress, interruption,
                lambda trial: record_judgement(folder, state, trial),
            ) as climb,
        ):  # fmt: skip
            climb.to(rung)
            if rung == state.steps:
                climb.finish()
    except Asked as asked:
        if asked.number != SIGINT:  # Ray's own way of asking
            sys.exit(128 + asked.number)  # the machine goes: another one takes the trials up
        raise KeyboardInterrupt from None
    return WorkerReport(tuple(state.notes), peak_memory_bytes(ground.draft.loaded.model.device))


def _ground(config: TuneConfig, dtype: str) -> Ground:
    keep_few_kernels()
    return lay_ground(config.training(), dtype)


def _answered(place: str, work: Callable[[], Value]) -> Value | Refusal:
    """What the work returns, done in the folder of whoever asked; an error of ours as a `Refusal`."""
    os.chdir(place)
    try:
        return work()
    except LoralabError as problem:
        return Refusal(type(problem).__name__, str(problem))
