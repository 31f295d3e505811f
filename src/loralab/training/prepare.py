"""From a configuration to everything a run works with: model, task, adapter, data, optimizer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from loralab.core.adapter import adapters_on
from loralab.core.attach import activate
from loralab.errors import DataError, SpecError
from loralab.evaluation.evaluate import encode_for
from loralab.evaluation.label_order import in_known_order, in_order_of, in_order_of_model
from loralab.formats.fingerprint import Fingerprint
from loralab.formats.run import recorded_labels
from loralab.methods.prefix.update import text_room
from loralab.methods.table import rows_of
from loralab.models.load import LoadedModel, read_config
from loralab.processes.group import ALONE, Processes
from loralab.processes.sharding import Shards
from loralab.tasks.encoding.encode import padding_id
from loralab.tasks.example import Conversation, Examples, Preference, weight_of
from loralab.tasks.held_out import Holdout
from loralab.tasks.preference import PreferenceObjective
from loralab.tasks.table import Task, open_task
from loralab.training.base import (
    checkpoint_blocks,
    drop_out_before_head,
    load_base,
    multiply_fast,
    put_kernels,
    quantize,
    quieten,
    say_what_rests,
)
from loralab.training.check import check_invoked, check_shared_out
from loralab.training.config import TrainConfig
from loralab.training.data import TrainingData
from loralab.training.data_record import Record, record_data
from loralab.training.draft import Draft, EncodedExamples
from loralab.training.held_out import check_measured, held_out_split, with_validation
from loralab.training.loop import Trainee
from loralab.training.objective import objective_for
from loralab.training.packing import packed
from loralab.training.projected_adamw import optimizer_for
from loralab.training.start import attach_adapter, take_over_values

Preparation = Callable[[Draft], Iterable[str]]
"""Does one thing to the run in the making, and says what is to be noted of it."""


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start."""

    loaded: LoadedModel
    task: Task
    trainee: Trainee
    notes: tuple[str, ...]
    data: Record
    """What the data were, for run.json."""
    conversations: bool = False
    """Whether the examples are conversations, which the chat template writes."""
    eval_split: str | None = None
    """As `Draft.eval_split`."""
    base: Fingerprint | None = None
    """Of the frozen base, where it was taken already."""

    @property
    def processes(self) -> Processes:
        """Those that make the run."""
        return self.trainee.processes

    @property
    def held_out(self) -> str | None:
        """The split to evaluate on."""
        return held_out_split(self.task)


@dataclass(frozen=True)
class Ground:
    """What a run stands on before its adapter comes: the frozen base and the task. Several runs can share it."""

    draft: Draft
    notes: tuple[str, ...]


def prepare(
    config: TrainConfig,
    dtype: str,
    labels: Sequence[str] = (),
    processes: Processes = ALONE,
    shards: Shards | None = None,
) -> Prepared:
    """Load the model in `dtype`, read the data, attach a fresh adapter; everything random comes from `config.seed`.

    `labels` are the classes of the run that is resumed, in its order.
    """
    return prepare_on(lay_ground(config, dtype, labels, processes, shards), config)


def lay_ground(
    config: TrainConfig,
    dtype: str,
    labels: Sequence[str] = (),
    processes: Processes = ALONE,
    shards: Shards | None = None,
) -> Ground:
    """Open the task and load the model in `dtype`, as `prepare` does; for `shards` in the precision of its file where
    it can be rounded later, and packed layers are cut at once.
    """
    draft = Draft(config, dtype, labels, processes=processes, shards=shards)
    return Ground(draft, _prepared_by(GROUND, draft))


def prepare_on(ground: Ground, config: TrainConfig, name: str = "default") -> Prepared:
    """The run of `config` on a ground, with an adapter called `name` beside those that are on the base already.

    The encoded examples, which are the same for all runs on one ground, are made once.
    """
    draft = ground.draft.for_run(config, name)
    if adapters_on(draft.loaded.model).adapters:
        activate(draft.loaded.model, None)  # a start that looks at the base must not see another run's adapter
    notes = _prepared_by(run_preparations(config), draft)
    model, task = draft.loaded.model, draft.task
    objective = objective_for(config, model, task, draft.data)
    optimizer = optimizer_for(draft.adapter, config, draft.processes)
    trainee = Trainee(model, draft.adapter, optimizer, draft.data, objective, draft.processes)
    record = record_data(task, config.data, _splits_read(config, task))
    first = task.examples("train", 1)[0]
    talks = isinstance(first.chosen if isinstance(first, Preference) else first, Conversation)
    return Prepared(draft.loaded, task, trainee, (*ground.notes, *notes), record, talks, draft.eval_split)


def _prepared_by(preparations: Iterable[Preparation], draft: Draft) -> tuple[str, ...]:
    return tuple(note for preparation in preparations for note in preparation(draft))


def run_preparations(config: TrainConfig) -> tuple[Preparation, ...]:
    """In their order. What EVA looks at is read before its LoRA is attached, which takes no room from the text."""
    adapter = (attach_adapter, take_over_values)
    started = (read_data, *adapter) if config.init == "eva" else (*adapter, read_data)
    return (say_what_rests, choose_seed, *started, find_invocations, say_reference, checkpoint_blocks)


def choose_threads(draft: Draft) -> Iterable[str]:
    """As many as wanted."""
    if draft.config.threads:
        torch.set_num_threads(draft.config.threads)
    return ()


def choose_seed(draft: Draft) -> Iterable[str]:
    """Of the adapter, of dropout, and of whatever else is left to chance from here on."""
    torch.manual_seed(draft.config.seed)
    return ()


def choose_task(draft: Draft) -> Iterator[str]:
    """The task with its classes in order, and something held out where measurements choose the adapter."""
    opened, ordered = _open_task(draft.config, draft.labels)
    draft.task = with_validation(opened, draft.config)
    config = draft.config
    found_again = config.training_share is None and (config.validation_share is None or config.data is not None)
    draft.eval_split = held_out_split(opened) if found_again else None
    check_measured(draft.task, config)
    yield from (*draft.task.notes, *ordered)


def _open_task(config: TrainConfig, labels: Sequence[str]) -> tuple[Task, list[str]]:
    """The task with its classes in the order of a run before, of the flag, of the adapter to start from, or of the
    checkpoint, and what is to be said of it."""
    held_out = Holdout(config.validation, config.validation_share, config.seed, config.training_share)
    task = open_task(config.task, config.data, kind=config.kind, held_out=held_out)
    if task.kind == "preference" or config.preference is not None:
        task = preferring(task, config)
    if task.kind != "classification":
        if config.labels is not None:
            raise SpecError(f"labels {', '.join(config.labels)}: task {task.name} is a {task.kind} and has no classes")
        return task, []
    earlier = recorded_labels(Path(config.init_adapter)) if config.init_adapter else None
    if labels:
        return in_known_order(task, labels, "the run before")
    if config.labels is not None:
        return in_known_order(task, config.labels, "labels")
    if earlier is not None and len(in_order_of(task.labels, earlier) or ()) == len(task.labels):
        return in_known_order(task, earlier, f"the adapter {config.init_adapter}")
    return in_order_of_model(task, read_config(config.model), trains=True)


def preferring(task: Task, config: TrainConfig) -> Task:
    """The task, measured by the objective that the configuration names. Raises `SpecError` where only one of them is
    about pairs of answers.
    """
    if task.kind != "preference":
        raise SpecError(
            f"preference {config.preference} learns from pairs of answers (rows of prompt, chosen, rejected), and task "
            f"{task.name} holds none; leave it out, or give other data"
        )
    if config.preference is None:
        raise SpecError(
            f"task {task.name} holds pairs of answers: say how to learn from them, with preference dpo (held to the "
            "base) or orpo (no reference, also learns the chosen answers)"
        )
    return replace(task, preference=PreferenceObjective(config.preference, config.beta, config.label_smoothing))


def say_reference(draft: Draft) -> Iterator[str]:
    """What pairs of answers are compared with."""
    config = draft.config
    if config.preference == "orpo":
        yield f"orpo with weight {config.beta:g}: no reference; the chosen answers are learned as well"
    if config.preference != "dpo":
        return
    yield (
        f"dpo with beta {config.beta:g}: the reference is the base without the adapter, computed once a pair, with no "
        "second model"
    )
    if config.init_adapter is not None:
        yield (
            f"the reference is not the adapter {config.init_adapter} that this run starts from: to be held to that, "
            "merge it first and train on the merged model"
        )
    if any(row.trains_weights for row in rows_of(config.method)):
        yield "what the method trains of the base's own is beside the base, which stays as it was loaded: the reference"


def read_data(draft: Draft) -> Iterator[str]:
    """The training examples, encoded, in the batches of the run."""
    config, encoded = draft.config, draft.encoded
    room = text_room(draft.loaded.model)
    key = (config.limit, config.max_length, room, config.seed if config.packing else None)
    if key not in encoded:
        encoded[key] = _encoded(draft)
    pad_id = padding_id(draft.loaded.processor)
    check_shared_out(config, len(encoded[key].rows), draft.processes)
    sizes = config.batch_size, config.accumulate, config.seed
    draft.data = TrainingData(encoded[key].rows, *sizes, pad_id, draft.processes, config.length_pool)
    yield from encoded[key].notes


def _encoded(draft: Draft) -> EncodedExamples:
    config = draft.config
    examples, left_out = _that_count(draft.task.examples("train", config.limit))
    encoding = encode_for(draft.loaded.model, draft.loaded.processor, draft.task, examples, config.max_length)
    rows, said = packed(config, draft.task, draft.loaded.model, encoding)
    return EncodedExamples(rows, (*left_out, *encoding.notes, *said))


def _that_count(examples: Examples) -> tuple[Examples, tuple[str, ...]]:
    """The examples whose weight is above 0, and a sentence on the others; raises `DataError` where there are none."""
    counting = [example for example in examples if weight_of(example)]
    if not counting:
        raise DataError(f"all {len(examples)} training examples have weight 0; there is nothing to learn")
    left = len(examples) - len(counting)
    return counting, (f"{left} of {len(examples)} training examples have weight 0 and are left out",) if left else ()


def find_invocations(draft: Draft) -> Iterable[str]:
    """Whether the examples hold what the adapter acts from."""
    return check_invoked(draft.data.encoded, draft.adapter.invocation)


def _splits_read(config: TrainConfig, task: Task) -> list[str]:
    """Training, and what is measured on."""
    held_out = held_out_split(task) if config.eval_limit or config.best_epoch else None
    return ["train", *([held_out] if held_out else [])]


GROUND: tuple[Preparation, ...] = (
    *(choose_threads, choose_task, load_base, quantize, multiply_fast, put_kernels),
    *(drop_out_before_head, quieten),
)
"""The preparations that need no adapter, in their order."""
