"""What happens beside the steps: recording, evaluating, keeping the best, saving, stopping early."""

from dataclasses import dataclass, field

from loralab.evaluation.evaluate import Evaluation
from loralab.formats.checkpoints import BEST, step_name
from loralab.machine import peak_memory_bytes
from loralab.metrics.scores import higher_is_better
from loralab.planning.memory import Memory
from loralab.training.checkpoint import AdapterWriter, Checkpoint, is_saved, restore_best, save_best, save_checkpoint
from loralab.training.config import TrainConfig
from loralab.training.folder import RunFolder
from loralab.training.forecast import comparison
from loralab.training.interrupt import Interruption
from loralab.training.log.journal import Journal
from loralab.training.log.progress import ShowsProgress
from loralab.training.loop import StepRecord
from loralab.training.measure import Measurer, measured
from loralab.training.prepare import Prepared

UNCOUNTED_STEPS = 3
"""Steps at the start of a process that are left out of its speed: caches are cold."""


@dataclass
class Progress:
    """What a run has to remember from step to step, also over an interruption."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    first_loss: float | None = None
    last_loss: float | None = None
    best: float | None = None
    best_step: int | None = None
    since_best: int = 0
    stopped_early: bool = False
    unjudged: bool = False
    """Whether an evaluation was due after this step, and was interrupted."""


@dataclass
class RunObserver:
    """The observer of one run."""

    config: TrainConfig
    prepared: Prepared
    folder: RunFolder
    journal: Journal
    progress: ShowsProgress
    measurer: Measurer
    interruption: Interruption
    writer: AdapterWriter
    last: int
    counts: Progress = field(default_factory=Progress)
    measured_tokens: int = 0
    measured_seconds: float = 0.0
    steps_here: int = 0
    latest: tuple[int, Evaluation] | None = None
    predicted: Memory | None = None
    """Of the run's memory, to be said beside what the first step took."""

    def after_step(self, record: StepRecord) -> bool:
        """Count and record the step; evaluate and save where due. False: stop early."""
        self._count(record)
        self.journal.write(
            {
                "step": record.step,
                "split": "train",
                "loss": record.loss,
                "learning_rate": record.learning_rate,
                "gradient_norm": record.gradient_norm,
                "tokens": record.tokens,
                "seconds": round(record.seconds, 4),
            }
        )
        self.progress.step(record.step, record.loss, self.tokens_per_second)
        if self.predicted is not None and self.steps_here == 1:
            taken = peak_memory_bytes(self.prepared.loaded.model.device)
            self.progress.say(comparison(self.predicted, taken))
        self.counts.unjudged = self._due(self._steps_between_evaluations, record.step)
        return self.conclude_step()

    def conclude_step(self) -> bool:
        """What follows a step that was recorded: evaluate and save where due. False: stop early.

        Raises `Asked` where the run was asked to stop.
        """
        if self.counts.unjudged:
            self._judge(self.evaluate())
            self.counts.unjudged = False
        stop = self.config.early_stop > 0 and self.counts.since_best >= self.config.early_stop
        self.counts.stopped_early = stop
        at_the_end = self.config.save_every > 0 and (stop or self.counts.step == self.last)
        if at_the_end or self._due(self.config.save_every, self.counts.step):
            self.save()
        self.interruption.check()
        return not stop

    @property
    def tokens_per_second(self) -> float:
        """Real tokens a second in this process, its first steps left out (counted while there are no others)."""
        if self.measured_seconds:
            return self.measured_tokens / self.measured_seconds
        return self.counts.tokens / self.counts.seconds if self.counts.seconds else 0.0

    def evaluate(self, *, leave: bool = True) -> Evaluation | None:
        """The scores of the adapter as it is now on the held-out split, recorded; None where the task has none."""
        if self.latest is None or self.latest[0] != self.counts.step:
            result = self.measurer.measure(self.counts.step, leave=leave)
            self.latest = None if result is None else (self.counts.step, result)
        return self.latest[1] if self.latest else None

    def save(self) -> None:
        """Write a checkpoint of this moment."""
        self.prepared.processes.first(self._write_checkpoint)

    def stop(self) -> None:
        """Write where the run stands before it is left, unless a checkpoint says it or nothing was done yet."""
        folder, step = self.folder.checkpoints, self.counts.step
        if step and not self.prepared.processes.first(lambda: is_saved(folder, step)):
            self.save()

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take up the counts of a checkpoint."""
        self.counts = Progress(**{name: checkpoint.counts.get(name, fresh) for name, fresh in vars(Progress()).items()})

    def bring_back_best(self) -> None:
        """At the end: the adapter becomes the best one seen, if any evaluation chose one."""
        if self.counts.best_step is not None and self.counts.best_step != self.counts.step:
            adapter, processes = self.prepared.trainee.adapter, self.prepared.processes
            processes.first(lambda: restore_best(self.folder.checkpoints, adapter))
            processes.take_from_first(tensor for _, tensor in adapter.named_tensors())
            self.latest = None
            self.progress.say(f"the adapter of step {self.counts.best_step} was the best and is the one saved")

    def _count(self, record: StepRecord) -> None:
        counts = self.counts
        counts.step, counts.last_loss = record.step, record.loss
        counts.first_loss = record.loss if counts.first_loss is None else counts.first_loss
        counts.tokens += record.tokens
        counts.seconds += record.seconds
        counts.processor_seconds += record.processor_seconds
        self.steps_here += 1
        if self.steps_here > UNCOUNTED_STEPS:
            self.measured_tokens += record.tokens
            self.measured_seconds += record.seconds

    def _judge(self, result: Evaluation | None) -> None:
        if result is None:
            return
        name = self.metric
        value = measured(result)[name]
        sign = 1 if higher_is_better(name) else -1
        if self.counts.best is None or sign * value > sign * self.counts.best:
            self.counts.best, self.counts.best_step, self.counts.since_best = value, self.counts.step, 0
            self.prepared.processes.first(self._write_best)
        else:
            self.counts.since_best += 1

    def _write_checkpoint(self) -> None:
        trainee = self.prepared.trainee
        counts, folder = vars(self.counts) | {"steps": self.last}, self.folder.checkpoints
        self.writer.write(folder, step_name(self.counts.step))
        save_checkpoint(folder, self.counts.step, trainee.adapter, trainee.optimizer, counts, self.config.keep)

    def _write_best(self) -> None:
        self.writer.write(self.folder.checkpoints, BEST)
        save_best(self.folder.checkpoints, self.prepared.trainee.adapter)

    @property
    def metric(self) -> str:
        """What the best adapter is best in."""
        task = self.prepared.task
        return self.config.best_metric or ("loss" if task.kind == "generation" else task.metrics[0])

    @property
    def _steps_between_evaluations(self) -> int:
        """0 evaluates only at the end."""
        return self.prepared.trainee.data.steps_per_epoch if self.config.best_epoch else self.config.eval_every

    @staticmethod
    def _due(every: int, step: int) -> bool:
        return every > 0 and step % every == 0
