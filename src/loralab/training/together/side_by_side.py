"""Adapters that train side by side on one base: one model in memory, one reading of the data.

A run has its own adapter, optimizer, schedule, order of the data, random numbers and folder, and is the run that
`train` makes of its configuration, step for step. They take turns: before a turn its adapter becomes the one that
speaks and its random stream flows on, and afterwards all is as it was. Where that is faster, a step of several is one
pass over the rows of all (`passes.py`). One that cannot go on is left behind, with why.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from loralab.core.adapter import adapters_on
from loralab.core.attach import activate, detach
from loralab.errors import NumericsError, TrainingError
from loralab.planning.memory import Memory
from loralab.planning.several import MOST_TOKENS, estimate_several
from loralab.training.chance import RandomStream, random_states, same_states
from loralab.training.config import TrainConfig
from loralab.training.folder import claim
from loralab.training.forecast import without_context, workload
from loralab.training.held_out import check_measured
from loralab.training.interrupt import Interruption
from loralab.training.log.progress import ShowsProgress
from loralab.training.loop import Pass
from loralab.training.prepare import Ground, Prepared, prepare_on
from loralab.training.run import Run, TrainResult, open_run
from loralab.training.together.heads import FreshHeads
from loralab.training.together.passes import ComingStep, Passes

Failure = TrainingError | NumericsError
"""What ends one run and leaves the others alone."""


@dataclass(eq=False)
class Member:
    """One of the runs."""

    name: str
    """Of its adapter on the model."""
    config: TrainConfig
    stream: RandomStream = field(default_factory=RandomStream)
    run: Run | None = None
    """None when it has been left: its adapter is off the model then."""
    failure: Failure | None = None
    result: TrainResult | None = None


class SideBySide:
    """The runs on one ground."""

    def __init__(self, ground: Ground, interruption: Interruption, say: Callable[[str], None]) -> None:
        self.ground, self.interruption = ground, interruption
        self.passes = Passes(self.model, say)
        self.heads = FreshHeads(ground.draft)
        self.members: list[Member] = []

    @property
    def model(self) -> Any:
        """That all of them are on."""
        return self.ground.draft.loaded.model

    @property
    def running(self) -> list[Member]:
        """Those that were not left."""
        return [member for member in self.members if member.run is not None]

    def add(self, config: TrainConfig, name: str, progress: ShowsProgress | None = None) -> Member:
        """Put another run's adapter on the base, at its start or where its newest checkpoint is.

        Raises whatever `train` raises before its first step; nothing of the run is on the base then.
        """
        folder = claim(config)
        check_measured(self.ground.draft.task, config)
        member = Member(name, config)
        with member.stream.flowing():
            self.heads.put(config.seed)
            prepared = prepare_on(self.ground, config, name)
            before = folder.read_record() if config.resume else {}
            member.run = open_run(config, prepared, folder, self.interruption, before, progress)
        self.members.append(member)
        return member

    @contextmanager
    def turn(self, member: Member) -> Iterator[Run]:
        """Within this block the base is as if the member's run were alone on it."""
        assert member.run is not None, f"{member.name} has been left"
        activate(self.model, member.name)
        with member.stream.flowing():
            yield member.run

    def forecast(self) -> Memory | None:
        """What the memory of all of them should peak at; None for models whose blocks `planning` has no table of."""
        members = [(prepared_of(member), member.config) for member in self.running]
        works = [work for prepared, config in members if (work := workload(prepared, config)) is not None]
        if len(works) < len(members) or not works:
            return None
        largest = max(works, key=lambda work: work.batch * work.tokens)
        adapters = [prepared.trainee.adapter for prepared, _ in members]
        return without_context(estimate_several(self.model, adapters, largest), largest)

    def begin(self) -> None:
        """What comes before the first steps."""
        for member in self.running:
            self.heads.put(member.config.seed)
            self._take(member, lambda run: run.begin())

    def advance(self, until: int | None = None) -> None:
        """Take all runs to step `until`, or to their ends: whoever is the furthest behind has the next turn."""
        while behind := [member for member in self.running if _is_behind(member, until)]:
            lowest = min(_step(member) for member in behind)
            for group in self._groups([member for member in behind if _step(member) == lowest]):
                self._step(group)

    def _groups(self, members: Sequence[Member]) -> list[list[Member]]:
        """Those that may have a pass together: few enough tokens, and first of all runs of one seed, which see the same
        examples."""
        groups: list[list[Member]] = []
        room = 0
        for member in sorted(members, key=lambda member: member.config.seed):
            tokens = _coming(member).most_tokens
            if not groups or tokens > room:
                groups.append([])
                room = MOST_TOKENS
            groups[-1].append(member)
            room -= tokens
        return groups

    def _step(self, group: Sequence[Member]) -> None:
        """The next step of each of these."""
        steps = [_coming(member) for member in group]
        way, done = self.passes.way(steps), dict[str, Pass]()
        if way == "one batch":
            self.model.train()
            done = {step.name: each for step, each in zip(steps, self.passes.joined(steps), strict=True)}
        elif way == "both":
            done = self._measured(group)
        for member in group:
            if way == "in turn":
                self._take(member, lambda run: run.advance(run.step + 1))
            elif member.name in done:
                self._take(member, lambda run: run.conclude(done[member.name]))  # noqa: B023

    def _measured(self, group: Sequence[Member]) -> dict[str, Pass]:
        """The passes of these in turn, by name, beside which the one pass is measured."""
        done: dict[str, Pass] = {}
        drawn = False

        def compute(run: Run) -> None:
            nonlocal drawn
            before = random_states()
            done[member.name] = run.compute()
            drawn = drawn or not same_states(before, random_states())

        for member in group:
            self._take(member, compute)
        steps = [_coming(member) for member in group if member.name in done]
        self.passes.measure(steps, list(done.values()), by_chance=drawn)
        return done

    def finish(self, member: Member, kernels: Sequence[str]) -> None:
        """Write what a finished run leaves; `member.result` is what came of it."""

        def write(run: Run) -> None:
            member.result = run.finish(kernels)

        self._take(member, write)
        self.leave(member)

    def leave(self, member: Member) -> None:
        """Take the run's adapter off the base. Its folder stays as it is."""
        if member.run is None:
            return
        member.run.close()
        member.run = None
        if member.name in adapters_on(self.model).adapters:
            detach(self.model, member.name)

    def stop(self, number: int) -> None:
        """After signal `number`: every run writes down where it stands."""
        for member in self.running:
            with self.turn(member) as run:
                run.stopped(number)

    def close(self) -> None:
        """Close the files of all runs."""
        for member in self.running:
            assert member.run is not None
            member.run.close()

    def _take(self, member: Member, act: Callable[[Run], None]) -> None:
        """A turn of this member; a failure is its own."""
        try:
            with self.turn(member) as run:
                act(run)
        except (TrainingError, NumericsError) as problem:
            member.failure = problem
            self.leave(member)


def prepared_of(member: Member) -> Prepared:
    """What a member works with, while it has not been left."""
    assert member.run is not None, f"{member.name} has been left"
    return member.run.observer.prepared


def _coming(member: Member) -> ComingStep:
    """The step that a member makes next."""
    return ComingStep(member.name, prepared_of(member).trainee, _step(member) + 1, member.config.batch_size)


def _step(member: Member) -> int:
    assert member.run is not None
    return member.run.step


def _is_behind(member: Member, until: int | None) -> bool:
    assert member.run is not None
    return not member.run.is_over and (until is None or member.run.step < until)
