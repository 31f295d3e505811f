"""From a configuration to everything a run works with: model, task, adapter, data, optimizer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from loralab.core.adapter import Adapter
from loralab.core.attach import attach
from loralab.errors import DataError, SpecError
from loralab.evaluation.label_order import in_known_order, in_order_of_model
from loralab.evaluation.score import require_metrics
from loralab.formats.labels import recorded_labels
from loralab.formats.quantized import quantize_base, trained_on
from loralab.formats.tokenizer import with_own_tokenizer
from loralab.generation.settings import forced_first_token
from loralab.methods.lora import principal_under
from loralab.methods.prefix.update import text_room
from loralab.methods.registry import specification
from loralab.models.fast.attention import short_sequence_attention
from loralab.models.fast.lean import lean_leaves
from loralab.models.head_dropout import set_head_dropout
from loralab.models.load import LoadedModel, load_model, read_config
from loralab.models.precision import use_fast_float32
from loralab.nn.dropout import quick_dropout
from loralab.tasks.encoding.encode import encode_examples, padding_id
from loralab.tasks.encoding.first_token import begin_targets
from loralab.tasks.example import Conversation, Examples, weight_of
from loralab.tasks.label_order import in_order_of
from loralab.tasks.table import Task, open_task
from loralab.training.check import check_invoked
from loralab.training.config import TrainConfig
from loralab.training.data import TrainingData
from loralab.training.data_record import Record, record_data
from loralab.training.held_out import held_out_split, with_validation
from loralab.training.loop import Trainee
from loralab.training.objective import objective_for
from loralab.training.projected_adamw import optimizer_for
from loralab.training.start import attach_from_data, start_from


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start."""

    loaded: LoadedModel
    task: Task
    trainee: Trainee
    max_length: int
    notes: tuple[str, ...]
    data: Record
    """What the data were, for run.json."""
    conversations: bool = False
    """Whether the examples are conversations, which the chat template writes."""

    @property
    def held_out(self) -> str | None:
        """The split to evaluate on."""
        return held_out_split(self.task)


def prepare(config: TrainConfig, dtype: str, labels: Sequence[str] = ()) -> Prepared:
    """Load the model in `dtype`, read the data, attach a fresh adapter; everything random comes from `config.seed`.

    `labels` are the classes of the run that is resumed, in its order.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    task, ordered = _open_task(config, labels)
    task = with_validation(task, config)
    _check_best_metric(config, task)
    _check_held_out(config, task)
    loaded, said = _load(config, task, dtype)
    notes = [*task.notes, *ordered, *said]
    if config.quantize is not None:
        principal = principal_under(loaded.model, specification(config))
        notes.append(str(quantize_base(loaded.model, config.quantize, principal)))
    if loaded.model.device.type == "cpu" and loaded.dtype == torch.float32:
        notes.append(use_fast_float32())
    if config.head_dropout is not None:
        notes.append(set_head_dropout(loaded.model, config.head_dropout))
    torch.manual_seed(config.seed)
    read = _read(config, task, loaded) if config.init == "eva" else None  # a LoRA, which takes no room from the text
    adapter = _attach(config, loaded, read)
    if config.quantize is not None:
        adapter.notes.append(trained_on(config.quantize))
    if config.init_adapter is not None:
        notes.append(start_from(config.init_adapter, adapter, config, loaded, task.model_kind))
    max_length, data, said = read or _read(config, task, loaded)
    notes += check_invoked(data.encoded, adapter.invocation)
    if config.gradient_checkpointing:
        loaded.model.activation_checkpointing_enable({"use_reentrant": False})
    objective = objective_for(config, loaded.model, task.kind)
    trainee = Trainee(loaded.model, adapter, optimizer_for(adapter, config), data, objective)
    said = (*notes, *adapter.notes, *said)
    record = record_data(task, config.data, _splits_read(config, task))
    talks = isinstance(task.examples("train", 1)[0], Conversation)
    return Prepared(loaded, task, trainee, max_length, said, record, talks)


def _load(config: TrainConfig, task: Task, dtype: str) -> tuple[LoadedModel, Sequence[str]]:
    """The model that the task needs, with the tokenizer of the adapter to start from, and what is to be said of it."""
    loaded = load_model(
        config.model,
        kind=task.model_kind,
        labels=task.labels or None,
        regression=task.kind == "regression",
        dtype=dtype,
        device=config.device,
        seed=config.seed,
    )
    if config.init_adapter is None:
        return loaded, loaded.notes
    own = with_own_tokenizer(loaded, config.init_adapter)
    return own, loaded.notes if own is loaded else (*loaded.notes, *own.notes)


def _splits_read(config: TrainConfig, task: Task) -> list[str]:
    """Training, and what is measured on."""
    held_out = held_out_split(task) if config.eval_limit or config.best_epoch else None
    return ["train", *([held_out] if held_out else [])]


def _open_task(config: TrainConfig, labels: Sequence[str]) -> tuple[Task, list[str]]:
    """The task with its classes in the order of a run before, of the flag, of the adapter to start from, or of the
    checkpoint, and what is to be said of it."""
    task = open_task(config.task, config.data, kind=config.kind)
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


def _read(config: TrainConfig, task: Task, loaded: LoadedModel) -> tuple[int, TrainingData, Sequence[str]]:
    """(the tokens that a text may have, the encoded training data, what is to be said of it)."""
    max_length = min(config.max_length, text_room(loaded.model) or config.max_length)
    examples, said = _that_count(task.examples("train", config.limit))
    encoder_decoder = bool(getattr(loaded.model.config, "is_encoder_decoder", False))
    encoding = encode_examples(task, examples, loaded.processor, max_length, encoder_decoder=encoder_decoder)
    encoding = begin_targets(encoding, forced_first_token(loaded.model), max_length)
    pad_id = padding_id(loaded.processor)
    data = TrainingData(encoding.encoded, config.batch_size, config.accumulate, config.seed, pad_id)
    return max_length, data, (*said, *encoding.notes)


def _that_count(examples: Examples) -> tuple[Examples, tuple[str, ...]]:
    """The examples whose weight is above 0, and a sentence on the others; raises `DataError` where there are none."""
    counting = [example for example in examples if weight_of(example)]
    if not counting:
        raise DataError(f"all {len(examples)} training examples have weight 0; there is nothing to learn")
    left = len(examples) - len(counting)
    return counting, (f"{left} of {len(examples)} training examples have weight 0 and are left out",) if left else ()


def _attach(config: TrainConfig, loaded: LoadedModel, read: tuple[int, TrainingData, Sequence[str]] | None) -> Adapter:
    """A fresh adapter, started from the data where they were read for it."""
    method = specification(config)
    return attach(loaded.model, method) if read is None else attach_from_data(config, method, loaded.model, read[1])


def _check_held_out(config: TrainConfig, task: Task) -> None:
    """That what is to be measured on can be: found out before the training, not after it."""
    split = held_out_split(task)
    if split is None or not (config.eval_limit or config.best_epoch):
        return
    examples = task.examples(split, 1)
    require_metrics(task, examples)
    if task.kind != "generation" and getattr(examples[0], "label", None) is None:
        raise SpecError(
            f"the split {split} of task {task.name} has no labels, so nothing can be measured on it while training; "
            "add the validation file, or give eval_limit 0"
        )


def _check_best_metric(config: TrainConfig, task: Task) -> None:
    known = ("loss", "perplexity") if task.kind == "generation" else ("loss", *task.metrics)
    if config.best_metric is not None and config.best_metric not in known:
        raise SpecError(
            f"best_metric {config.best_metric!r} is not measured while training {task.name}; choose {', '.join(known)}"
        )


@contextmanager
def made_fast(prepared: Prepared) -> Iterator[list[str]]:
    """Within this block the model runs on the kernels that suit training here; yields what was chosen, as sentences.

    In float32 on a CPU the activations are twice the size, and memory is what is short: gates are computed again.
    """
    model = prepared.loaded.model
    again = model.device.type == "cpu" and prepared.loaded.dtype == torch.float32
    with (
        short_sequence_attention(model) as attention,
        lean_leaves(model, recompute_gates=again) as leaves,
        quick_dropout(model) as dropouts,
    ):
        gates = "; gates are computed again there, as float32 is large" if again else ""
        drawn = [f"{dropouts} dropouts draw 16 bits a number"] if dropouts and model.device.type == "cpu" else []
        yield [attention, f"{leaves} norms and gates keep less for the backward pass{gates}", *drawn]
