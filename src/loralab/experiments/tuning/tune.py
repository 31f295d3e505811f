"""`tune`: many adapters on one base, the worse half of their settings stopped at every rung, the best one kept."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from loralab.errors import NumericsError, TrainingError, first_line
from loralab.evaluation.evaluate import evaluate
from loralab.evaluation.few import few_examples
from loralab.experiments.tuning.budget import choose_steps, is_given
from loralab.experiments.tuning.config import TuneConfig
from loralab.experiments.tuning.folder import TuneFolder, TuneState, clear, earlier_state, record_state
from loralab.experiments.tuning.grid import TuneTrial, settings_of, trials_of
from loralab.experiments.tuning.halving import better_half, rungs_of
from loralab.experiments.tuning.pictures import draw_tuning
from loralab.experiments.tuning.probe import probe_all
from loralab.experiments.tuning.results import TrialResult, TuneResult, advice, markdown, mean_losses, rows_of
from loralab.files.locks import locked
from loralab.files.names import RUN_NAME
from loralab.files.whole import replacing, whole_folder, write_json, write_text
from loralab.machine import keep_few_kernels, peak_memory_bytes
from loralab.training.base import made_fast
from loralab.training.chance import RandomStream
from loralab.training.command import train_command
from loralab.training.config import TrainConfig
from loralab.training.folder import RunFolder
from loralab.training.held_out import held_out_split
from loralab.training.interrupt import Asked, Interruption, RunStopped, interruptible
from loralab.training.measure import measured
from loralab.training.prepare import Ground, lay_ground
from loralab.training.together.progress import SharedProgress
from loralab.training.together.side_by_side import Member, SideBySide


def tune(config: TuneConfig) -> TuneResult:
    """Train every setting with every seed side by side on one base, stop the worse half at every rung by held-out
    loss, and leave the best one in `config.out`/best. The same call goes on where an interrupted one stopped.

    Raises SpecError for a tuning that cannot be, differs from the one in the folder, or does not fit its budget;
    OutputError for a folder in use; TrainingError where no trial came to an end; `RunStopped` where it was asked to
    stop.
    """
    started = perf_counter()
    config.validate()
    folder = TuneFolder(Path(config.out))
    state = None if config.overwrite else earlier_state(folder, config)
    keep_few_kernels()
    ground = lay_ground(config.training(), config.dtype)
    with SharedProgress() as progress, interruptible() as interruption:
        if state is None:
            state = _plan(config, ground, progress, started)
            if not folder.record.is_file():
                earlier_state(folder, config)  # anything else that lies there is left alone
        folder.path.mkdir(parents=True, exist_ok=True)
        with locked(folder.path):
            if config.overwrite:
                clear(folder)
            return Tuning(config, folder, state, ground, progress, interruption, started).run()


def _plan(config: TuneConfig, ground: Ground, progress: SharedProgress, started: float) -> TuneState:
    """What is fixed before the first trial: that all of it can be, the scores of the base, and how many steps."""
    settings = settings_of(config)
    with progress.doing("trying every rank and set of targets"):
        probes = probe_all(config, ground, settings, measure=not is_given(config))
    with progress.doing("measuring the base"):
        looked = perf_counter()
        base = _scores_of_base(config, ground)
        look = perf_counter() - looked
    steps, said = choose_steps(config, probes, len(settings), look, perf_counter() - started)
    return TuneState(steps, base, [*ground.notes, *said])


def _scores_of_base(config: TuneConfig, ground: Ground) -> dict[str, float]:
    loaded, task = ground.draft.loaded, ground.draft.task
    split = held_out_split(task)
    assert split is not None, "a task that choices are made on has something held out"
    with RandomStream().flowing():
        result = evaluate(
            loaded.model, loaded.processor, task, split,
            limit=config.eval_limit, batch_size=config.batch_size, max_length=config.max_length,
        )  # fmt: skip
    return measured(result)


@dataclass
class Tuning:
    """One tuning at work."""

    config: TuneConfig
    folder: TuneFolder
    state: TuneState
    ground: Ground
    progress: SharedProgress
    interruption: Interruption
    started: float

    def run(self) -> TuneResult:
        """Every rung that is still to come, and what a finished tuning leaves."""
        self._record()
        self._say_start()
        together = SideBySide(self.ground, self.interruption, self._note)
        try:
            # Adapters come first: quick kernels are chosen by which modules are adapted.
            members = {trial.name: self._put(together, trial) for trial in self._alive()}
            self._say_memory(together)
            with made_fast(self.ground.draft.loaded) as kernels:
                together.begin()
                for rung in self.rungs:
                    self._climb(together, members, rung)
                for member in together.running:
                    self._finish(together, member, kernels)
        except Asked as asked:
            together.stop(asked.number)
            raise self._stopped(asked.number) from None
        finally:
            together.close()
        return self._write()

    @property
    def trials(self) -> list[TuneTrial]:
        """All of them, also those that were stopped."""
        return trials_of(self.config)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps at which settings are judged."""
        return rungs_of(self.state.steps, len(settings_of(self.config)), self.config.halvings)

    def _alive(self) -> list[TuneTrial]:
        """Trials that were not stopped, and have no result yet."""
        return [each for each in self.trials if each.name not in self.state.stopped and not self._done(each)]

    def _done(self, trial: TuneTrial) -> bool:
        record = RunFolder.of(trial.training(self.config, self.state.steps)).record
        return record.is_file() and "result" in json.loads(record.read_text(encoding="utf-8"))

    def _put(self, together: SideBySide, trial: TuneTrial) -> Member:
        """Its run on the base: from its newest checkpoint, or from its start."""
        run = trial.training(self.config, self.state.steps)
        place = RunFolder.of(run)
        if not place.record.is_file():
            shutil.rmtree(place.path, ignore_errors=True)  # what a process that was killed at once left there
        elif any(place.checkpoints.glob("step-*.safetensors")):
            run = replace(run, resume=True)
        else:
            run = replace(run, overwrite=True)
        return together.add(run, trial.name, self.progress.lane(trial.name))

    def _climb(self, together: SideBySide, members: Mapping[str, Member], rung: int) -> None:
        """All that are left train to this rung and are measured there; the worse half of the settings stops."""
        together.advance(rung)
        for name, member in members.items():
            if member.run is not None and str(rung) not in self.state.losses.get(name, {}):
                self._judge(together, member, rung)
        for name, member in members.items():
            if member.failure is not None and name not in self.state.stopped:
                self._note_failure(name, member)
        if rung != self.rungs[-1]:
            self._halve(together, members, rung)
        self._record()

    def _judge(self, together: SideBySide, member: Member, rung: int) -> None:
        """Its scores at this rung, and a checkpoint, from which a stopped tuning goes on."""
        try:
            with together.turn(member) as run:
                result = run.observer.evaluate()
                run.observer.stop()
        except (TrainingError, NumericsError) as problem:
            member.failure = problem
            together.leave(member)
            return
        assert result is not None
        assert result.loss is not None
        self.state.losses.setdefault(member.name, {})[str(rung)] = result.loss
        self.state.metrics[member.name], self.state.reached[member.name] = measured(result), rung
        self._record()

    def _note_failure(self, name: str, member: Member) -> None:
        why = first_line(member.failure) if member.failure is not None else "left"
        self.state.stopped[name] = f"failed: {why}"
        self.progress.say(f"{name} is stopped, the others go on: {why}")

    def _halve(self, together: SideBySide, members: Mapping[str, Member], rung: int) -> None:
        """The better half of the settings that were measured at this rung goes on; asked again, it says the same."""
        losses = mean_losses(self.trials, self.state, rung)
        kept = set(better_half(losses))
        going = [trial for trial in self.trials if trial.name in members and members[trial.name].run is not None]
        for trial in going:
            if trial.setting not in kept:
                self.state.stopped[trial.name] = f"worse half at step {rung}"
                together.leave(members[trial.name])
        if losses and going:
            best = min(losses, key=losses.__getitem__)
            self.progress.say(
                f"step {rung} of {self.state.steps}: the better {len(kept)} of {len(losses)} settings go on; best "
                f"{best.label} with loss {losses[best]:.4f}"
            )

    def _finish(self, together: SideBySide, member: Member, kernels: Sequence[str]) -> None:
        together.finish(member, kernels)
        if member.failure is not None:
            self._note_failure(member.name, member)
            self._record()

    def _say_start(self) -> None:
        settings = settings_of(self.config)
        for note in self.state.notes:
            self.progress.say(note)
        self.progress.say(
            f"{len(settings)} settings with {len(self.config.seeds)} seed"
            f"{'s' if len(self.config.seeds) > 1 else ''} on one base, judged after "
            f"{', '.join(map(str, self.rungs))} steps"
        )

    def _say_memory(self, together: SideBySide) -> None:
        predicted = together.forecast()
        if predicted is not None:
            runs = len(together.running)
            self._note(f"memory: {predicted.total / 1e6:,.0f} MB predicted for {runs} adapters on one base")

    def _note(self, sentence: str) -> None:
        """Said, and kept with the results."""
        self.progress.say(sentence)
        if sentence not in self.state.notes:
            self.state.notes.append(sentence)

    def _stopped(self, number: int) -> RunStopped:
        self._record()
        return RunStopped(
            f"stopped; where every trial stands is in {self.folder.trials}. The same command goes on there", number
        )

    def _record(self) -> None:
        """Where it stands, on the disk."""
        now = perf_counter()
        self.state.seconds, self.started = self.state.seconds + now - self.started, now
        record_state(self.folder, self.config, self.state)

    def _write(self) -> TuneResult:
        """The best run beside the trials, the table, the pictures and the answer."""
        self._record()
        title = f"{self.config.model} on {self.config.task}"
        result = self._result()
        result = replace(result, plots=tuple(map(str, draw_tuning(result, self.folder.path, title))))
        write_text(self.folder.table, markdown(result, title))
        write_json(self.folder.results, result.answer())
        return result

    def _result(self) -> TuneResult:
        best = self._best()
        run = best.training(self.config, self.state.steps)
        again = replace(run, out=str(self.folder.again), eval_before=True, samples=TrainConfig.samples)
        adapter = keep_best(RunFolder.of(run).path, self.folder.best)
        setting = best.setting
        return TuneResult(
            best={
                "rank": setting.rank, "lr": setting.lr, "targets": setting.targets, "seed": best.seed,
                "metrics": self.state.metrics[best.name], "adapter": str(adapter),
            },
            trials=tuple(map(self._trial, self.trials)),
            rows=tuple(rows_of(self.trials, self.state, self.rungs)),
            command=train_command(again),
            advice=(*advice(setting, settings_of(self.config)), *_loose(RunFolder.of(run))),
            base=self.state.base,
            steps=self.state.steps,
            rungs=self.rungs,
            seconds=self.state.seconds,
            peak_memory_bytes=peak_memory_bytes(self.ground.draft.loaded.model.device),
            notes=tuple(self.state.notes),
            out=str(self.folder.path),
            results=str(self.folder.results),
            table=str(self.folder.table),
        )  # fmt: skip

    def _best(self) -> TuneTrial:
        """Of the setting with the best mean at the end, the seed with the lowest loss. Raises TrainingError where no
        trial came to its end."""
        ended = [trial for trial in self.trials if self._done(trial)]
        if not ended:
            first = next(iter(self.state.stopped.values()), "nothing was trained")
            raise TrainingError(f"none of the {len(self.trials)} trials came to an end ({first}); give lower lrs")
        losses = mean_losses(self.trials, self.state, self.rungs[-1])
        rank = {setting: number for number, setting in enumerate(sorted(losses, key=losses.__getitem__))}
        last = str(self.rungs[-1])
        return min(ended, key=lambda trial: (rank[trial.setting], self.state.losses[trial.name][last]))

    def _trial(self, trial: TuneTrial) -> TrialResult:
        setting, name = trial.setting, trial.name
        return TrialResult(
            setting.rank, setting.lr, setting.targets, trial.seed, self.state.reached.get(name, 0),
            self.state.metrics.get(name, {}), self.state.stopped.get(name), name, str(self.folder.trials / name),
        )  # fmt: skip


def _loose(run: RunFolder) -> list[str]:
    """A sentence where the settings were judged on few examples."""
    few = few_examples(run.read_record()["result"]["held_out"]["rows"])
    return [f"{each[:1].upper()}{each[1:]}." for each in few]


def keep_best(run: Path, best: Path) -> Path:
    """A copy of the run's folder as the best one's, whose record says that it lies there."""
    with replacing(best), whole_folder(best) as draft:
        shutil.copytree(run, draft, dirs_exist_ok=True)
        for record in draft.rglob(RUN_NAME):
            text = record.read_text(encoding="utf-8")
            record.write_text(text.replace(json.dumps(str(run))[1:-1], json.dumps(str(best))[1:-1]), encoding="utf-8")
    return best
