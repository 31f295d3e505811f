"""`train`: one run from its configuration to an adapter on disk."""

import math
from dataclasses import asdict, dataclass, replace

from loralab.errors import SpecError
from loralab.evaluation.few import few_examples
from loralab.extras import install, lacking
from loralab.formats.processor_files import replace_processor
from loralab.formats.save import save
from loralab.machine import keep_few_kernels, peak_memory_bytes
from loralab.methods.counts import parameter_counts
from loralab.training.base import made_fast
from loralab.training.check import resting_notes
from loralab.training.checkpoint import newest_checkpoint, restore
from loralab.training.config import DEFAULT_EPOCHS, TrainConfig
from loralab.training.curves import draw_curves
from loralab.training.data_record import check_unchanged
from loralab.training.folder import RunFolder, claim, clear
from loralab.training.forecast import forecast
from loralab.training.journal import Journal, read_journal
from loralab.training.loop import run_steps
from loralab.training.observer import RunObserver, measured
from loralab.training.prepare import Prepared, prepare
from loralab.training.progress import RunProgress
from loralab.training.record import write_record


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
    held_out_examples: int = 0
    """What the metrics are measured on; of documents the rows that they are cut into."""


def train(config: TrainConfig) -> TrainResult:
    """Train an adapter as the configuration says and save it in `config.out`.

    Raises SpecError for a configuration that cannot be, OutputError for a folder in use, TrainingError if the run
    cannot go on; and whatever loading the model or the data raises. Nothing is written before all of that is known.
    """
    config.validate()
    folder = claim(config)
    keep_few_kernels()
    before = folder.read_record() if config.resume else {}
    prepared = prepare(config, before.get("dtype", config.dtype), before.get("labels", ()))
    if config.resume:
        said = check_unchanged(before, prepared.data, folder.path)
        prepared = replace(prepared, notes=(*prepared.notes, *said))
    last = total_steps(config, prepared)
    with made_fast(prepared.loaded) as kernels:
        observer = _open(config, prepared, folder, last)
        try:
            _say_start(observer, [*prepared.notes, *kernels, *_unwritten()])
            observer.predicted = forecast(prepared, config)
            _run(config, observer)
            return _finish(config, observer)
        finally:
            observer.progress.close()
            observer.journal.close()


def total_steps(config: TrainConfig, prepared: Prepared) -> int:
    """The steps of the whole run: as asked, or as many as the epochs take."""
    if config.steps is not None:
        return config.steps
    epochs = DEFAULT_EPOCHS if config.epochs is None else config.epochs
    return max(1, math.ceil(epochs * prepared.trainee.data.steps_per_epoch))


def _open(config: TrainConfig, prepared: Prepared, folder: RunFolder, last: int) -> RunObserver:
    """Claim the folder for good, and go back to the newest checkpoint if there is one to resume from."""
    checkpoint = newest_checkpoint(folder.checkpoints) if config.resume else None
    done = checkpoint.step if checkpoint else 0
    if done > last:
        raise SpecError(f"the run in {folder.path} has made {done} steps already, more than {last}; give more steps")
    if not config.resume:
        clear(folder)
    write_record(folder.record, config, _facts(prepared))
    observer = RunObserver(config, prepared, folder, Journal(folder, done), RunProgress(done + 1, last), last)
    if checkpoint:
        restore(checkpoint, prepared.trainee.adapter, prepared.trainee.optimizer)
        observer.resume(checkpoint)
    return observer


def _run(config: TrainConfig, observer: RunObserver) -> None:
    if not observer.counts.stopped_early:
        run_steps(observer.prepared.trainee, config, observer.counts.step + 1, observer.last, observer)


def _finish(config: TrainConfig, observer: RunObserver) -> TrainResult:
    """Bring the best adapter back, evaluate it, and write everything that a finished run leaves."""
    prepared, folder, counts = observer.prepared, observer.folder, observer.counts
    observer.bring_back_best()
    final = observer.evaluate() if config.eval_limit or config.best_epoch else None
    save(prepared.trainee.adapter, folder.path, model=prepared.loaded.model)
    replace_processor(prepared.loaded.processor, folder.path)
    if not lacking("plots"):
        draw_curves(read_journal(folder.metrics), folder.curves, f"{config.model} on {config.task}, {config.method}")
    sizes = parameter_counts(prepared.trainee.adapter, prepared.loaded.model)
    few = few_examples(final.rows) if final else ()
    closing = [*prepared.trainee.optimizer.closing_notes(), *resting_notes(prepared.trainee.adapter), *few]
    for note in closing:
        observer.progress.say(note)
    result = TrainResult(
        adapter=str(folder.path),
        steps=counts.step,
        trainable_params=sizes.method,
        head_params=sizes.head,
        total_params=sizes.base,
        tokens=counts.tokens,
        tokens_per_second=observer.tokens_per_second,
        seconds=counts.seconds,
        processor_seconds=counts.processor_seconds,
        peak_memory_bytes=peak_memory_bytes(prepared.loaded.model.device),
        first_loss=counts.first_loss,
        last_loss=counts.last_loss,
        best_step=counts.best_step,
        metrics=measured(final) if final else {},
        held_out_examples=final.rows if final else 0,
    )
    facts = _facts(prepared) | {"notes": [*prepared.notes, *closing], "result": asdict(result)}
    write_record(folder.record, config, facts)
    return result


def _facts(prepared: Prepared) -> dict[str, object]:
    return {
        "kind": prepared.task.kind,
        "model_kind": prepared.task.model_kind,
        "labels": list(prepared.task.labels),
        "data": prepared.data,
        "conversations": prepared.conversations,
        "dtype": str(prepared.loaded.dtype).removeprefix("torch."),
        "matched": prepared.trainee.adapter.matched,
        "notes": list(prepared.notes),
    }


def _unwritten() -> list[str]:
    """What this run leaves no file of, as its package is not installed; metrics.jsonl holds the same numbers."""
    files = {"board": "TensorBoard events", "plots": "curves.png"}
    missing = [extra for extra in files if lacking(extra)]
    said = f"{' or '.join(files[extra] for extra in missing)} will not be written; for that: {install(*missing)}"
    return [said] if missing else []


def _say_start(observer: RunObserver, notes: list[str]) -> None:
    adapter, model = observer.prepared.trainee.adapter, observer.prepared.loaded.model
    sizes = parameter_counts(adapter, model)
    for note in notes:
        observer.progress.say(note)
    with_head = f" and {sizes.head:,} of the head" if sizes.head else ""
    observer.progress.say(
        f"{len(adapter.matched)} modules adapted: {sizes.method:,} parameters{with_head} train, "
        f"{100 * sizes.method / sizes.base:.3f}% of {sizes.base:,}"
    )
    if observer.counts.step:
        observer.progress.say(f"resumed after step {observer.counts.step}")
