"""Models, adapters and tasks opened as the flags name them."""

import shutil
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from loralab.cli.flags import AdaptedModel, Loading, MeasuredAdapter
from loralab.cli.progress import erase_progress
from loralab.errors import NotFoundError, SpecError
from loralab.files.names import CONFIG_NAME

if TYPE_CHECKING:
    from loralab.analysis.adapters.measurement import Measurement
    from loralab.core.adapter import Adapter
    from loralab.models.load import LoadedModel
    from loralab.tasks.held_out import Holdout
    from loralab.tasks.table import Task

Labels = tuple[str, ...] | None
"""Classes in the order of a model's outputs."""

LabelKind = Literal["classification", "regression"] | None
"""What the labels of a task are; None: as the data look."""

MODEL_KINDS = {"SEQ_CLS": "sequence-classification", "SEQ_2_SEQ_LM": "seq2seq-lm"}
"""What adapter_config.json calls the task -> the kind of model; a language model where it says nothing."""


@dataclass(frozen=True)
class Wanted:
    """The kind of model that a task needs, or that an adapter was trained on."""

    kind: str
    labels: tuple[str, ...] | None = None
    regression: bool = False
    conversations: bool = False
    """Whether the run's examples were conversations, written by the chat template."""

    @property
    def label_kind(self) -> LabelKind:
        """What the labels were that it was trained on; None where that is not known."""
        if self.regression:
            return "regression"
        return None if self.labels is None else "classification"


def load_adapted(config: AdaptedModel, wanted: Wanted) -> "LoadedModel":
    """The model with its adapter, if one is named, active. Raises what `load_base` and `load_adapter` raise."""
    loaded = load_base(config.model, config.dtype, wanted, config.quantize, config.adapter)
    if config.adapter is not None:
        load_adapter(config.adapter, config, loaded)
    return loaded


def load_base(
    model: str, dtype: str, wanted: Wanted, quantize: str | None = None, adapter: str | None = None
) -> "LoadedModel":
    """The base model, on the fast kernels, with the tokenizer of the adapter that it is for; what is noteworthy goes to
    stderr. Raises what `load_model`, `with_own_tokenizer` and `quantize_base` raise.
    """
    import torch

    from loralab.formats.quantized import quantize_base
    from loralab.formats.tokenizer import with_own_tokenizer
    from loralab.models.load import load_model
    from loralab.models.precision import use_fast_float32

    loaded = load_model(model, kind=wanted.kind, labels=wanted.labels, regression=wanted.regression, dtype=dtype)
    say(_of_head(note, adapter) for note in loaded.notes)
    if adapter is not None:
        base, loaded = loaded, with_own_tokenizer(loaded, adapter)
        say(loaded.notes if loaded is not base else ())
    if quantize is not None:
        say([str(quantize_base(loaded.model, quantize))])
    if loaded.model.device.type == "cpu" and loaded.dtype == torch.float32:
        say([use_fast_float32()])
    return loaded


def _of_head(note: str, adapter: str | None) -> str:
    """Whose a head is that the checkpoint does not hold: of a run it would be trained, here nothing trains."""
    from loralab.models.fit import FRESH

    if not note.startswith(FRESH):
        return note
    names = note.removeprefix(FRESH)
    return f"not in the base's checkpoint, at random in it: {names}" if adapter is None else f"of the adapter: {names}"


def load_adapter(adapter: str, flags: Loading, loaded: "LoadedModel", name: str | None = None) -> "Adapter":
    """Put an adapter on the model, active; its notes go to stderr. Raises what `load` raises."""
    from loralab.formats.load import load

    attached = load(loaded.model, adapter, name, alpha=flags.alpha, allow_other_base=flags.allow_other_base)
    say(attached.notes)
    return attached


def wanted_for(task: "Task") -> Wanted:
    """The model that a task needs."""
    return Wanted(task.model_kind, task.labels or None, task.kind == "regression")


def open_ordered(
    name: str, data: str | None, model: str, adapter: str | None, labels: Labels = None, kind: LabelKind = None
) -> "Task":
    """The task `name` with its classes in the order of the model's outputs; where nothing records it, what is assumed
    goes to stderr. Raises what opening the task raises, and SpecError for a checkpoint of other classes.
    """
    from loralab.evaluation.label_order import in_assumed_order, in_order_of_model
    from loralab.models.load import read_config
    from loralab.tasks.table import open_task

    wanted = wanted_by(adapter, labels)
    known = wanted.labels
    held_out = held_out_by_run(adapter, name, data)
    task = open_task(name, data, labels=known, kind=kind or wanted.label_kind, held_out=held_out)
    say(task.notes)
    if task.kind == "preference":
        return _compared(task, adapter)
    if known is not None or task.kind != "classification":
        return task
    find = in_order_of_model if adapter is None else in_assumed_order
    ordered, notes = find(task, read_config(model))
    say(notes)
    return ordered


def _compared(task: "Task", adapter: str | None) -> "Task":
    """The task, measured as the adapter's run did; as DPO does where that was no learning from pairs.

    Raises SpecError without an adapter, when there is nothing to compare the base with.
    """
    from dataclasses import replace

    from loralab.formats.run import read_run

    if adapter is None:
        raise SpecError(f"task {task.name} holds pairs of answers, measured against the base: give an --adapter")
    learned = read_run(Path(adapter)).preference if Path(adapter).is_dir() else None
    measured = learned or task.preference
    say([f"pairs of answers are measured by {measured.name} with beta {measured.beta:g}"])
    return replace(task, preference=measured)


def held_out_by_run(adapter: str | None, task: str, data: str | None) -> "Holdout":
    """What the adapter's training held out of the same data, so that nothing which it was trained on is measured."""
    from loralab.formats.run import read_run
    from loralab.tasks.held_out import Holdout

    run = read_run(Path(adapter)) if adapter is not None and Path(adapter).is_dir() else None
    same = run is not None and data is not None and run.task == task and _is_same(run.data, data)
    if run is None or not same or (run.validation is None and run.validation_share is None):
        return Holdout()
    if run.validation is not None and not Path(run.validation).expanduser().exists():
        raise NotFoundError(f"the run of {adapter} held out {run.validation}, which is not there; bring it back")
    say([f"validation is what the run of {adapter} held out"])
    return Holdout(run.validation, run.validation_share, run.seed)


def _is_same(before: str | None, now: str) -> bool:
    """Whether two paths name one place."""
    return before is not None and Path(before).expanduser().resolve() == Path(now).expanduser().resolve()


def wanted_by(adapter: str | None, labels: Labels = None) -> Wanted:
    """The model that an adapter was trained on: from its run.json, or else from its adapter_config.json.

    `labels` are the flag's. A loralib checkpoint says nothing, and means a language model. Raises NotFoundError if
    there is no such adapter, and SpecError for other labels than those it records.
    """
    if adapter is None or Path(adapter).is_file():
        return Wanted("generation", labels)
    if not Path(adapter).is_dir():
        raise NotFoundError(f"--adapter: no such folder: {adapter}")
    from loralab.files.whole import read_json
    from loralab.formats.run import read_run, recorded_labels

    folder = Path(adapter)
    config = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).is_file() else {}
    run, recorded = read_run(folder), recorded_labels(folder)
    if labels is not None and recorded not in (None, labels):
        raise SpecError(
            f"--labels {','.join(labels)}: {adapter} records {','.join(recorded or ())}; leave --labels out"
        )
    return Wanted(
        run.model_kind or MODEL_KINDS.get(str(config.get("task_type")), "generation"),
        recorded or labels,
        run.kind == "regression",
        run.conversations,
    )


def open_measured(config: MeasuredAdapter) -> "tuple[Adapter, Measurement]":
    """The adapter, active on its model, and what measures the model as it is. Raises what loading both raises."""
    from loralab.analysis.adapters.measurement import OF_TARGETS, Measurement, default_metric
    from loralab.evaluation.score import require_metrics

    task = open_ordered(config.task, config.data, config.model, config.adapter, config.labels)
    metric = config.metric or default_metric(task)
    generates = task.kind == "generation" and metric not in OF_TARGETS
    require_metrics(task, task.examples(config.split, config.limit), generate=generates)
    loaded = load_base(config.model, config.dtype, wanted_for(task), adapter=config.adapter)
    measurement = Measurement(
        loaded.model,
        loaded.processor,
        task,
        task.split_named(config.split),
        config.limit,
        metric,
        config,
        config.max_length,
        lambda sentence: say([sentence]),
    )
    return load_adapter(config.adapter, config, loaded), measurement


def open_stream(config: AdaptedModel) -> "LoadedModel":
    """The model with its adapter, if one is named. Raises SpecError for what is neither decoder nor encoder."""
    return load_adapted(config, _wanted_for_text(config.model, config.adapter))


def open_decoder(model: str, dtype: str) -> "LoadedModel":
    """A causal language model, for what measures perplexity. Raises SpecError for another kind."""
    wanted = _wanted_for_text(model, None)
    if wanted.kind != "causal-lm":
        raise SpecError(f"model {model!r} is an encoder: it has no perplexity to measure; give a causal language model")
    return load_base(model, dtype, wanted)


def _wanted_for_text(model: str, adapter: str | None) -> Wanted:
    from loralab.models.families.table import FAMILY_BY_TYPE
    from loralab.models.load import read_config

    config = read_config(model)
    family = FAMILY_BY_TYPE.get(config.model_type)
    architecture = "decoder" if family is None else family.architecture
    if architecture not in ("decoder", "encoder"):
        raise SpecError(
            f"model {model!r} is of type {config.model_type!r} ({architecture}): layers are analysed in one line of "
            "blocks over text; give a decoder or an encoder"
        )
    if adapter is not None:
        known = wanted_by(adapter)
        return Wanted("causal-lm") if known.kind == "generation" else known
    return Wanted("causal-lm" if architecture == "decoder" else "sequence-classification")


def say(notes: Iterable[str]) -> None:
    """Print sentences on stderr, in a terminal folded between words."""
    erase_progress()
    width = shutil.get_terminal_size().columns if sys.stderr.isatty() else None
    for note in notes:
        print(note if width is None else _folded(note, width), file=sys.stderr)


def _folded(note: str, width: int) -> str:
    """Lines that begin with spaces are commands or lists, and stay."""
    lines = (
        line if line.startswith(" ") else textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        for line in note.split("\n")
    )
    return "\n".join(lines)
