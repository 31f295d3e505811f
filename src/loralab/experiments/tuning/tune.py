"""`tune`: many adapters on one base, the worse half of their settings stopped at every rung, the best one kept."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter

from loralab.errors import TrainingError
from loralab.evaluation.few import few_examples
from loralab.experiments.cluster import connected
from loralab.experiments.tuning.cluster import TuningOnCluster
from loralab.experiments.tuning.config import TuneConfig
from loralab.experiments.tuning.course import Course
from loralab.experiments.tuning.folder import (
    TuneFolder,
    TuneState,
    clear,
    earlier_state,
    record_state,
    take_judgements,
)
from loralab.experiments.tuning.grid import TuneTrial, settings_of
from loralab.experiments.tuning.halving import better_half
from loralab.experiments.tuning.here import TuningHere
from loralab.experiments.tuning.pictures import draw_tuning
from loralab.experiments.tuning.results import TrialResult, TuneResult, advice, markdown, mean_losses, rows_of
from loralab.files.locks import locked
from loralab.files.names import RUN_NAME
from loralab.files.whole import replacing, whole_folder, write_json, write_text
from loralab.machine import keep_few_kernels
from loralab.training.command import train_command
from loralab.training.config import TrainConfig
from loralab.training.folder import RunFolder
from loralab.training.interrupt import Asked, Interruption, RunStopped, interruptible
from loralab.training.prepare import lay_ground
from loralab.training.together.progress import SharedProgress


def tune(config: TuneConfig) -> TuneResult:
    """Train every setting with every seed side by side on one base, stop the worse half at every rung by held-out
    loss, and leave the best one in `config.out`/best. The same call goes on where an interrupted one stopped.

    Raises SpecError for a tuning that cannot be, differs from the one in the folder, or does not fit its budget;
    OutputError for a folder in use; ProcessError for a cluster that does not answer or loses every worker;
    TrainingError where no trial came to an end; `RunStopped` where it was asked to stop.
    """
    started = perf_counter()
    config.validate()
    folder = TuneFolder(Path(config.out))
    state = None if config.overwrite else earlier_state(folder, config)
    keep_few_kernels()
    with (
        _hands(config, None if state is None else state.dtype) as hands,
        SharedProgress() as progress,
        interruptible() as interruption,
    ):
        if state is None:
            state = _fresh_state(hands, progress, interruption, started)
            if not folder.record.is_file():
                earlier_state(folder, config)  # anything else that lies there is left alone
        folder.path.mkdir(parents=True, exist_ok=True)
        with locked(folder.path):
            if config.overwrite:
                clear(folder)
            return Tuning(config, folder, state, hands, progress, interruption, started).run()


@contextmanager
def _hands(config: TuneConfig, dtype: str | None) -> Iterator[TuningHere | TuningOnCluster]:
    """Who trains the trials: this process, on a base in `dtype`, or a cluster."""
    if config.cluster is None:
        yield TuningHere(config, lay_ground(config.training(), dtype or config.dtype))
        return
    with connected(config.cluster):
        yield TuningOnCluster(config)


def _fresh_state(
    hands: TuningHere | TuningOnCluster, progress: SharedProgress, interruption: Interruption, started: float
) -> TuneState:
    try:
        return hands.state_at_start(progress, interruption, started)
    except Asked as asked:
        raise RunStopped("stopped; nothing was trained yet", asked.number) from None


@dataclass
class Tuning:
    """One tuning at work."""

    config: TuneConfig
    folder: TuneFolder
    state: TuneState
    hands: TuningHere | TuningOnCluster
    progress: SharedProgress
    interruption: Interruption
    started: float

    def run(self) -> TuneResult:
        """Every rung that is still to come, and what a finished tuning leaves."""
        take_judgements(self.folder, self.state, [trial.name for trial in self.course.trials], self._record)
        self._record()
        self._say_start()
        try:
            with closing(self.hands.climb(self.course)) as climbed:
                for rung in climbed:
                    if rung != self.course.rungs[-1]:
                        self._halve(rung)
                    self._record()
        except Asked as asked:
            raise self._stopped(asked.number) from None
        return self._write()

    @cached_property
    def course(self) -> Course:
        """For those who train."""
        return Course(self.config, self.folder, self.state, self.progress, self.interruption, self._record)

    def _halve(self, rung: int) -> None:
        """The better half of the settings that were measured at this rung goes on; asked again, it says the same."""
        losses = mean_losses(self.course.trials, self.state, rung)
        kept = set(better_half(losses))
        going = self.course.alive
        for trial in going:
            if trial.setting not in kept:
                self.state.stopped[trial.name] = f"worse half at step {rung}"
        if losses and going:
            best = min(losses, key=losses.__getitem__)
            self.progress.say(
                f"step {rung} of {self.state.steps}: the better {len(kept)} of {len(losses)} settings go on; best "
                f"{best.label} with loss {losses[best]:.4f}"
            )

    def _say_start(self) -> None:
        settings = settings_of(self.config)
        for note in self.state.notes:
            self.progress.say(note)
        self.progress.say(
            f"{len(settings)} settings with {len(self.config.seeds)} seed"
            f"{'s' if len(self.config.seeds) > 1 else ''} on one base, judged after "
            f"{', '.join(map(str, self.course.rungs))} steps"
        )

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
            trials=tuple(map(self._trial, self.course.trials)),
            rows=tuple(rows_of(self.course.trials, self.state, self.course.rungs)),
            command=train_command(again),
            advice=(*advice(setting, settings_of(self.config)), *_loose(RunFolder.of(run))),
            base=self.state.base,
            steps=self.state.steps,
            rungs=self.course.rungs,
            seconds=self.state.seconds,
            peak_memory_bytes=self.hands.peak_memory_bytes,
            notes=tuple(self.state.notes),
            out=str(self.folder.path),
            results=str(self.folder.results),
            table=str(self.folder.table),
        )  # fmt: skip

    def _best(self) -> TuneTrial:
        """Of the setting with the best mean at the end, the seed with the lowest loss. Raises TrainingError where no
        trial came to its end."""
        ended = [trial for trial in self.course.trials if self.course.is_done(trial)]
        if not ended:
            first = next(iter(self.state.stopped.values()), "nothing was trained")
            raise TrainingError(
                f"none of the {len(self.course.trials)} trials came to an end ({first}); give lower lrs"
            )
        losses = mean_losses(self.course.trials, self.state, self.course.rungs[-1])
        rank = {setting: number for number, setting in enumerate(sorted(losses, key=losses.__getitem__))}
        last = str(self.course.rungs[-1])
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
