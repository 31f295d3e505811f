"""Trials side by side on one base in one process, from rung to rung: trained, measured, and at the last one finished.

It knows nothing of which of them are better, nor of other processes that take other trials there.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from loralab.errors import NumericsError, TrainingError, first_line
from loralab.experiments.tuning.config import TuneConfig
from loralab.experiments.tuning.folder import TuneState
from loralab.experiments.tuning.grid import TuneTrial
from loralab.machine import peak_memory_bytes
from loralab.training.base import made_fast
from loralab.training.folder import RunFolder
from loralab.training.interrupt import Asked, Interruption
from loralab.training.measure import measured
from loralab.training.prepare import Ground
from loralab.training.together.progress import SharedProgress
from loralab.training.together.side_by_side import Member, SideBySide

Record = Callable[[str], None]
"""Writes down what the state has of the trial of this name."""


@dataclass
class Climb:
    """Trials on their way up. `state` hears what is measured of them, and `record` is told."""

    config: TuneConfig
    state: TuneState
    together: SideBySide
    progress: SharedProgress
    record: Record
    kernels: Sequence[str]
    members: dict[str, Member] = field(default_factory=dict)

    def to(self, rung: int) -> None:
        """All that are left train to this step and are measured there."""
        self.together.advance(rung)
        for name, member in self.members.items():
            if member.run is not None and str(rung) not in self.state.losses.get(name, {}):
                self._judge(member, rung)
        for name, member in self.members.items():
            if member.failure is not None and name not in self.state.stopped:
                self._note_failure(member)

    def leave(self, names: Iterable[str]) -> None:
        """These go no further."""
        for name in names:
            self.together.leave(self.members[name])

    def finish(self) -> None:
        """Write what the runs leave that came to their ends."""
        for member in self.together.running:
            self.together.finish(member, self.kernels)
            if member.failure is not None:
                self._note_failure(member)

    @property
    def peak_memory_bytes(self) -> int:
        """Of this process so far."""
        return peak_memory_bytes(self.together.model.device)

    def _judge(self, member: Member, rung: int) -> None:
        """Its scores at this rung, and a checkpoint, from which a stopped tuning goes on."""
        try:
            with self.together.turn(member) as run:
                result = run.observer.evaluate()
                run.observer.stop()
        except (TrainingError, NumericsError) as problem:
            member.failure = problem
            self.together.leave(member)
            return
        assert result is not None
        assert result.loss is not None
        self.state.losses.setdefault(member.name, {})[str(rung)] = result.loss
        self.state.metrics[member.name], self.state.reached[member.name] = measured(result), rung
        self.record(member.name)

    def _note_failure(self, member: Member) -> None:
        why = first_line(member.failure) if member.failure is not None else "left"
        self.state.stopped[member.name] = f"failed: {why}"
        self.progress.say(f"{member.name} is stopped, the others go on: {why}")
        self.record(member.name)


@contextmanager
def climbing(
    config: TuneConfig,
    state: TuneState,
    trials: Sequence[TuneTrial],
    ground: Ground,
    progress: SharedProgress,
    interruption: Interruption,
    record: Record,
) -> Iterator[Climb]:
    """These trials on the ground, each where its newest checkpoint is or at its start.

    Raises `Asked` where it was asked to stop; every run has written down then where it stands.
    """

    def note(sentence: str) -> None:
        progress.say(sentence)
        state.note(sentence)

    together = SideBySide(ground, interruption, note)
    try:
        # Adapters come first: quick kernels are chosen by which modules are adapted.
        members = {trial.name: _put(config, state, together, trial, progress) for trial in trials}
        predicted = together.forecast()
        if predicted is not None:
            note(f"memory: {predicted.total / 1e6:,.0f} MB predicted for {len(members)} adapters on one base")
        with made_fast(ground.draft.loaded, attention=config.attention) as kernels:
            together.begin()
            yield Climb(config, state, together, progress, record, kernels, members)
    except Asked as asked:
        together.stop(asked.number)
        raise
    finally:
        together.close()


def is_done(config: TuneConfig, state: TuneState, trial: TuneTrial) -> bool:
    """Whether the trial came to its end and left its result."""
    record = RunFolder.of(trial.training(config, state.steps)).record
    return record.is_file() and "result" in json.loads(record.read_text(encoding="utf-8"))


def _put(
    config: TuneConfig, state: TuneState, together: SideBySide, trial: TuneTrial, progress: SharedProgress
) -> Member:
    """Its run on the base: from its newest checkpoint, or from its start."""
    run = trial.training(config, state.steps)
    place = RunFolder.of(run)
    if not place.record.is_file():
        shutil.rmtree(place.path, ignore_errors=True)  # what a process that was killed at once left there
    elif any(place.checkpoints.glob("step-*.safetensors")):
        run = replace(run, resume=True)
    else:
        run = replace(run, overwrite=True)
    return together.add(run, trial.name, progress.lane(trial.name))
