"""`train`: one run from its configuration to an adapter on disk."""

import math
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from loralab.errors import SpecError
from loralab.evaluation.evaluate import Evaluation
from loralab.evaluation.few import few_examples
from loralab.extras import install, lacking
from loralab.formats.save import save
from loralab.formats.sharing.card import CARD_NAME, write_card
from loralab.machine import keep_few_kernels, peak_memory_bytes
from loralab.methods.counts import parameter_counts
from loralab.processes.group import Processes
from loralab.processes.joining import joined
from loralab.processes.launch import LaunchStopped, run_in_processes
from loralab.processes.place import ProcessPlace, is_started_by_launcher
from loralab.training.base import made_fast
from loralab.training.check import resting_notes
from loralab.training.checkpoint import AdapterWriter, newest_checkpoint, restore
from loralab.training.command import WIDTH, folded, next_commands, train_command
from loralab.training.config import DEFAULT_EPOCHS, TrainConfig
from loralab.training.data_record import check_unchanged
from loralab.training.folder import RunFolder, claim, clear, occupied, without_auto
from loralab.training.forecast import forecast
from loralab.training.interrupt import Asked, Interruption, RunStopped, interruptible
from loralab.training.log.boards import Boards, open_boards, require_boards
from loralab.training.log.curves import draw_curves
from loralab.training.log.journal import Journal, read_journal
from loralab.training.log.progress import RunProgress, ShowsProgress
from loralab.training.log.record import record_text, write_record
from loralab.training.log.samples import SampleFile, beside, read_samples
from loralab.training.loop import Pass, conclude, pass_of, run_steps
from loralab.training.measure import Measurer, measured, measures, scores_before
from loralab.training.observer import RunObserver
from loralab.training.prepare import Prepared
from loralab.training.several.alike import check_started, check_still_alike, what_is_asked
from loralab.training.several.follower import NoJournal, NoSamples, Silence
from loralab.training.several.ready import ready


@dataclass(frozen=True)
class TrainResult:
    """What came of a run."""

    adapter: str
    """The folder of the adapter."""
    steps: int
    trainable_params: int
    """Trained by the method; a classification head, trained in full, is counted apart."""
    head_params: int
    total_params: int
    """Of the base."""
    tokens: int
    """Real tokens seen, padding not counted."""
    tokens_per_second: float
    """Real tokens a second of training steps, the first 3 left out."""
    seconds: float
    """In training steps."""
    processor_seconds: float
    """Summed over threads."""
    peak_memory_bytes: int
    first_loss: float | None
    last_loss: float | None
    best_step: int | None
    """The step whose adapter was saved, where evaluations chose one."""
    metrics: dict[str, float]
    """On the held-out split, at the end: the loss in nats per target, and the task's metrics."""
    before: dict[str, float] = field(default_factory=dict)
    """The same of the base, before step 1; empty where it was not measured."""
    held_out: dict[str, Any] | None = None
    """What both are of: the `split`, and how many `examples`."""
    samples: list[dict[str, str | None]] = field(default_factory=list)
    """A few of these: the `prompt`, what is `wanted`, and what the model said `before` and `after`."""
    next: dict[str, str] = field(default_factory=dict)
    """Commands for what can be done with the adapter, by verb."""


def train(config: TrainConfig) -> TrainResult:
    """Train an adapter as the configuration says and save it in `config.out`.

    Raises SpecError for a configuration that cannot be, OutputError for a folder in use, TrainingError if the run
    cannot go on; and whatever loading the model or the data raises. Nothing is written before all of that is known.
    """
    config.validate()
    if is_started_by_launcher():
        check_started(config.processes, ProcessPlace.here().count)
    elif config.processes and config.processes > 1:
        return train_in_processes(config)
    with joined(config.device) as processes:
        return _train(config, processes)


def _train(config: TrainConfig, processes: Processes) -> TrainResult:
    processes.check_alike(lambda: what_is_asked(config))
    config, folder, before = processes.first(lambda: _look(config))
    keep_few_kernels()
    prepared = ready(config, before.get("dtype", config.dtype), before.get("labels", ()), processes)
    with (
        made_fast(prepared.loaded, attention=config.attention, compiled=config.compile) as kernels,
        interruptible(processes) as interruption,
    ):
        run = open_run(config, prepared, folder, interruption, before)
        try:
            run.say_start(kernels)
            run.begin()
            run.advance()
            return run.finish(kernels)
        except Asked as asked:
            raise run.stopped(asked.number) from None
        finally:
            run.close()


def train_in_processes(config: TrainConfig) -> TrainResult:
    """The same on `config.processes` processes of this machine, which are started for it and share its batches out."""
    assert config.processes is not None
    try:
        return run_in_processes(config.processes, train, config)
    except LaunchStopped as stopped:
        raise RunStopped(f"all {config.processes} processes have ended", stopped.number) from None


def _look(config: TrainConfig) -> tuple[TrainConfig, RunFolder, dict[str, Any]]:
    """(the configuration without `auto`, its folder, run.json of the run that goes on)."""
    require_boards(config)
    config = without_auto(config)
    folder = claim(config)
    return config, folder, folder.read_record() if config.resume else {}


@dataclass
class Run:
    """One run from its first step to its last: it can be stepped, left alone for a while, and gone on with.

    `train` takes it through in one go; `training/together` takes several on one base through side by side.
    """

    config: TrainConfig
    observer: RunObserver
    hold: ExitStack
    """On its folder, which nobody else may write meanwhile."""

    @property
    def step(self) -> int:
        """The last that was made."""
        return self.observer.counts.step

    @property
    def last(self) -> int:
        """The one that it ends with."""
        return self.observer.last

    @property
    def is_over(self) -> bool:
        """Whether no step is to come."""
        return self.step >= self.last or self.observer.counts.stopped_early

    def say_start(self, kernels: Sequence[str]) -> None:
        """What is trained, and on what."""
        _say_start(self.observer, kernels)

    def begin(self) -> None:
        """The base measured, unless the run goes on; and an evaluation made up for that was interrupted."""
        observer, config = self.observer, self.config
        observer.predicted = forecast(observer.prepared, config)
        if not self.step and config.eval_before and measures(config):
            observer.measurer.measure_base()
        if observer.counts.unjudged:
            observer.conclude_step()

    def advance(self, until: int | None = None) -> None:
        """Make the steps that are still to come, as far as step `until`; the schedule is that of the whole run.

        Raises TrainingError where the run cannot go on, `Asked` where it was asked to stop.
        """
        end = self.last if until is None else min(until, self.last)
        if not self.is_over:
            run_steps(self.observer.prepared.trainee, self.config, self.step + 1, end, self.observer, self.last)

    def compute(self) -> Pass:
        """The forward and backward passes of the next step, which `conclude` makes."""
        self.observer.prepared.trainee.model.train()
        return pass_of(self.observer.prepared.trainee, self.config, self.step + 1)

    def conclude(self, done: Pass) -> None:
        """Make the next step from the gradients that are there. Raises what `advance` raises."""
        conclude(self.observer.prepared.trainee, self.config, done, self.last, self.observer)

    def finish(self, kernels: Sequence[str]) -> TrainResult:
        """The best adapter brought back, measured, and everything written that a finished run leaves."""
        result = _finish(self.config, self.observer, kernels)
        self.observer.measurer.boards.ended = "finished"
        self.observer.interruption.check()
        return result

    def stopped(self, number: int) -> RunStopped:
        """What it says on being stopped by signal `number`, after it wrote down where it stands."""
        boards = self.observer.measurer.boards
        boards.ended = "stopped" if boards.ended == "failed" else boards.ended
        return _stopped(self.config, self.observer, number)

    def close(self) -> None:
        """Leave its files and its progress as they are."""
        self.observer.progress.close()
        self.observer.journal.close()
        self.hold.close()


def total_steps(config: TrainConfig, prepared: Prepared) -> int:
    """The steps of the whole run: as asked, or as many as the epochs take."""
    if config.steps is not None:
        return config.steps
    epochs = DEFAULT_EPOCHS if config.epochs is None else config.epochs
    return max(1, math.ceil(epochs * prepared.trainee.data.steps_per_epoch))


def open_run(
    config: TrainConfig,
    prepared: Prepared,
    folder: RunFolder,
    interruption: Interruption,
    before: Mapping[str, Any],
    progress: ShowsProgress | None = None,
) -> Run:
    """Hold the folder, make it this run's, and go back to the newest checkpoint if there is one to resume from. Of
    several processes the first one holds it, reads it and writes it.

    `before` is the run.json of the run that goes on, else empty. Raises DataError where its data are not as they were.
    """
    if config.resume:
        said = check_unchanged(before, prepared.data, folder.path)
        prepared = replace(prepared, notes=(*prepared.notes, *said))
    last = total_steps(config, prepared)
    processes = prepared.processes
    checkpoint = processes.first(lambda: newest_checkpoint(folder.checkpoints)) if config.resume else None
    done = checkpoint.step if checkpoint else 0
    if done > last:
        raise SpecError(f"the run in {folder.path} has made {done} steps already, more than {last}; give more steps")
    with ExitStack() as hold:
        processes.first(lambda: hold.enter_context(occupied(config)))
        progress = progress or (RunProgress(done + 1, last) if processes.is_first else Silence())
        observer = processes.together(
            lambda: _observer(config, prepared, folder, interruption, before, progress, done, last)
        )
        if checkpoint:
            restore(checkpoint, prepared.trainee.adapter, prepared.trainee.optimizer)
            observer.resume(checkpoint)
        return Run(config, observer, hold.pop_all())


def _observer(
    config: TrainConfig,
    prepared: Prepared,
    folder: RunFolder,
    interruption: Interruption,
    before: Mapping[str, Any],
    progress: ShowsProgress,
    done: int,
    last: int,
) -> RunObserver:
    """What hears of the run's steps: in the first process with the run's files, in the others without."""
    if prepared.processes.is_first:
        boards, journal, samples = _opened(config, prepared, folder, before, progress, done)
    else:
        boards, journal, samples = Boards(progress.say), NoJournal(), NoSamples(folder.samples)
    measurer = Measurer(config, prepared, journal, samples, boards, progress, interruption)
    writer = AdapterWriter(folder.path, prepared.trainee.adapter, prepared.loaded, prepared.base)
    return RunObserver(config, prepared, folder, journal, progress, measurer, interruption, writer, last)


def _opened(
    config: TrainConfig,
    prepared: Prepared,
    folder: RunFolder,
    before: Mapping[str, Any],
    progress: ShowsProgress,
    done: int,
) -> tuple[Boards, Journal, SampleFile]:
    """The run's boards and files."""
    boards = open_boards(config, folder.path, done, before.get("boards", {}), progress.say)
    facts = _facts(prepared, boards)
    if config.resume:
        write_record(folder.record, config, facts)
    else:
        clear(folder, record_text(config, facts))
    return boards, Journal(folder, done, boards), SampleFile(folder.samples, done)


def _stopped(config: TrainConfig, observer: RunObserver, number: int) -> RunStopped:
    """What a run that was asked to stop says, after it wrote down where it stands."""
    step, out = observer.counts.step, shlex.quote(config.out)
    if observer.prepared.processes.first(lambda: "result" in observer.folder.read_record()):
        return RunStopped(f"the run was finished all the same: its adapter is in {config.out}", number)
    observer.stop()
    used = f", and any verb takes it as it is: --adapter {out} --checkpoint last" if step else ""
    where = f"a checkpoint is in {observer.folder.checkpoints}{used}" if step else "nothing was trained yet"
    again = folded(train_command(config, resume=True, overwrite=None))
    said = textwrap.fill(
        f"stopped after step {step} of {observer.last}: {where}", WIDTH, break_long_words=False, break_on_hyphens=False
    )
    return RunStopped(f"{said}\nTo go on:\n\n{again}\n", number)


def _finish(config: TrainConfig, observer: RunObserver, kernels: Sequence[str]) -> TrainResult:
    """Bring the best adapter back, evaluate it, and write everything that a finished run leaves."""
    observer.bring_back_best()
    check_still_alike(observer.prepared.trainee.adapter, observer.prepared.processes)
    final = observer.evaluate(leave=config.save_every > 0) if measures(config) else None
    return observer.prepared.processes.first(lambda: _write(config, observer, kernels, final))


def _write(config: TrainConfig, observer: RunObserver, kernels: Sequence[str], final: Evaluation | None) -> TrainResult:
    prepared, folder = observer.prepared, observer.folder
    loaded, base = prepared.loaded, observer.writer.base
    save(prepared.trainee.adapter, folder.path, model=loaded.model, tokenizer=loaded.processor, base=base)
    if not lacking("plots"):
        draw_curves(read_journal(folder.metrics), folder.curves, f"{config.model} on {config.task}, {config.method}")
    few = few_examples(final.rows) if final else ()
    closing = [*prepared.trainee.optimizer.closing_notes(), *resting_notes(prepared.trainee.adapter), *few]
    for note in closing:
        observer.progress.say(note)
    result = _result(observer, final)
    facts = _facts(prepared, observer.measurer.boards) | {
        "notes": [*prepared.notes, *closing],
        "kernels": kernels,
        "result": asdict(result),
    }
    write_record(folder.record, config, facts)
    if not write_card(folder.path):
        observer.progress.say(f"{CARD_NAME} was changed by hand and is left as it is: it may tell of an earlier run")
    return result


def _result(observer: RunObserver, final: Evaluation | None) -> TrainResult:
    counts, prepared, loaded = observer.counts, observer.prepared, observer.prepared.loaded
    adapter = prepared.trainee.adapter
    sizes = parameter_counts(adapter, loaded.model)
    samples = beside(read_samples(observer.folder.samples), counts.step)
    merges = not any(update.why_not_merged for update in adapter.updates.values())
    prompt = next((each["prompt"] for each in samples), None)
    return TrainResult(
        adapter=str(observer.folder.path),
        steps=counts.step,
        trainable_params=sizes.method,
        head_params=sizes.head,
        total_params=sizes.base,
        tokens=counts.tokens,
        tokens_per_second=observer.tokens_per_second,
        seconds=counts.seconds,
        processor_seconds=counts.processor_seconds,
        peak_memory_bytes=peak_memory_bytes(loaded.model.device),
        first_loss=counts.first_loss,
        last_loss=counts.last_loss,
        best_step=counts.best_step,
        metrics=measured(final) if final else {},
        before=scores_before(read_journal(observer.folder.metrics)),
        held_out=None if final is None else {"split": final.split, "examples": final.examples, "rows": final.rows},
        samples=samples,
        next=next_commands(
            observer.config, prepared.task.kind, split=prepared.eval_split, merges=merges, prompt=prompt
        ),
    )


def _facts(prepared: Prepared, boards: Boards) -> dict[str, object]:
    return {
        "boards": boards.called,
        "kind": prepared.task.kind,
        "model_kind": prepared.task.model_kind,
        "labels": list(prepared.task.labels),
        "splits": list(prepared.task.splits),
        "data": prepared.data,
        "conversations": prepared.conversations,
        "dtype": str(prepared.loaded.dtype).removeprefix("torch."),
        "matched": prepared.trainee.adapter.matched,
        "notes": list(prepared.notes),
    }


def _unwritten(config: TrainConfig) -> list[str]:
    """What this run leaves no file of, as its package is not installed; metrics.jsonl holds the same numbers."""
    events = {"board": "TensorBoard events"} if config.board is None else {}
    files = {**events, "plots": "curves.png"}
    missing = [extra for extra in files if lacking(extra)]
    said = f"{' or '.join(files[extra] for extra in missing)} will not be written; for that: {install(*missing)}"
    return [said] if missing else []


def _say_start(observer: RunObserver, kernels: Sequence[str]) -> None:
    adapter, model = observer.prepared.trainee.adapter, observer.prepared.loaded.model
    sizes = parameter_counts(adapter, model)
    quick = ["quick kernels are used where they help (run.json lists them)"] if kernels else []
    quick = list(kernels) if observer.config.compile else quick
    for note in [*observer.prepared.notes, *quick, *_unwritten(observer.config)]:
        observer.progress.say(note)
    with_head = f" and {sizes.head:,} of the head" if sizes.head else ""
    observer.progress.say(
        f"{len(adapter.matched)} modules adapted: {sizes.method:,} parameters{with_head} train, "
        f"{100 * sizes.method / sizes.base:.3f}% of {sizes.base:,}"
    )
    if observer.counts.step:
        observer.progress.say(f"resumed after step {observer.counts.step}")
