"""A model with an adapter on it, as the flags name them: shared by eval, generate, merge and inspect."""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from loralab.errors import NotFoundError, SpecError
from loralab.files.names import CONFIG_NAME, RUN_NAME

if TYPE_CHECKING:
    from loralab.core.adapter import Adapter
    from loralab.models.load import LoadedModel
    from loralab.tasks.table import Task

Labels = tuple[str, ...] | None
"""Classes in the order of a model's outputs."""

LabelKind = Literal["classification", "regression"] | None
"""What the labels of a task are; None: as the data look."""

MODEL_KINDS = {"SEQ_CLS": "sequence-classification", "SEQ_2_SEQ_LM": "seq2seq-lm"}
"""What adapter_config.json calls the task -> the kind of model; a language model where it says nothing."""


@dataclass(frozen=True, kw_only=True)
class LoadingFlags:
    """How to load a model and an adapter, whichever they are."""

    alpha: float | None = None
    """The alpha of a loralib checkpoint, which does not record it."""

    allow_other_base: bool = False
    """Load the adapter even if it was trained on another base model."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the base model; auto is bfloat16 where the processor multiplies it natively."""

    quantize: Literal["nf4", "nf4-double"] | None = None
    """Keep the dense layers of the base in 4 bits, as a training with the same flag did."""

    labels: tuple[str, ...] | None = None
    """The classes in the order of the model's outputs, for an adapter or a checkpoint that does not record it."""


@dataclass(frozen=True, kw_only=True)
class AdaptedModel(LoadingFlags):
    """A model, and an adapter if one is named."""

    model: str
    """The base model: an embedded name (smollm2-135m, minilm-l6), a local folder, or a Hub id."""

    adapter: str | None = None
    """The adapter to put on the model: its folder, or a loralib checkpoint. Without it the base model alone."""


@dataclass(frozen=True)
class Training:
    """What an adapter's folder says about the model that it was trained on."""

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


def load_adapted(config: AdaptedModel, training: Training) -> "LoadedModel":
    """The model with its adapter, if one is named, active. Raises what `load_base` and `load_adapter` raise."""
    loaded = load_base(config.model, config.dtype, training, config.quantize, config.adapter)
    if config.adapter is not None:
        load_adapter(config.adapter, config, loaded)
    return loaded


def load_base(
    model: str, dtype: str, training: Training, quantize: str | None = None, adapter: str | None = None
) -> "LoadedModel":
    """The base model, on the fast kernels, with the tokenizer of the adapter that it is for; what is noteworthy goes to
    stderr. Raises what `load_model`, `with_own_tokenizer` and `quantize_base` raise.
    """
    import torch

    from loralab.formats.quantized import quantize_base
    from loralab.formats.tokenizer import with_own_tokenizer
    from loralab.models.load import load_model
    from loralab.models.precision import use_fast_float32

    loaded = load_model(model, kind=training.kind, labels=training.labels, regression=training.regression, dtype=dtype)
    say(loaded.notes)
    if adapter is not None:
        base, loaded = loaded, with_own_tokenizer(loaded, adapter)
        say(loaded.notes if loaded is not base else ())
    if quantize is not None:
        say([str(quantize_base(loaded.model, quantize))])
    if loaded.model.device.type == "cpu" and loaded.dtype == torch.float32:
        say([use_fast_float32()])
    return loaded


def load_adapter(adapter: str, flags: LoadingFlags, loaded: "LoadedModel") -> "Adapter":
    """Put an adapter on the model, active; its notes go to stderr. Raises what `load` raises."""
    from loralab.formats.load import load

    found = load(loaded.model, adapter, alpha=flags.alpha, allow_other_base=flags.allow_other_base)
    say(found.notes)
    return found


def training_for(task: "Task") -> Training:
    """The model that a task needs."""
    return Training(task.model_kind, task.labels or None, task.kind == "regression")


def open_ordered(
    name: str, data: str | None, model: str, adapter: str | None, labels: Labels = None, kind: LabelKind = None
) -> "Task":
    """The task `name` with its classes in the order of the model's outputs; where nothing records it, what is assumed
    goes to stderr. Raises what opening the task raises, and SpecError for a checkpoint of other classes.
    """
    from loralab.evaluation.label_order import in_assumed_order, in_order_of_model
    from loralab.models.load import read_config
    from loralab.tasks.table import open_task

    training = training_of(adapter, labels)
    known = training.labels
    task = open_task(name, data, labels=known, kind=kind or training.label_kind)
    say(task.notes)
    if known is not None or task.kind != "classification":
        return task
    find = in_order_of_model if adapter is None else in_assumed_order
    ordered, notes = find(task, read_config(model))
    say(notes)
    return ordered


def training_of(adapter: str | None, labels: Labels = None) -> Training:
    """The model that an adapter was trained on: from its run.json, or else from its adapter_config.json.

    `labels` are the flag's. A loralib checkpoint says nothing, and means a language model. Raises NotFoundError if
    there is no such adapter, and SpecError for labels that are not those that it records.
    """
    if adapter is None or Path(adapter).is_file():
        return Training("generation", labels)
    if not Path(adapter).is_dir():
        raise NotFoundError(f"--adapter: no such folder: {adapter}")
    from loralab.formats.labels import recorded_labels

    folder = Path(adapter)
    kind = MODEL_KINDS.get(str(_read(folder / CONFIG_NAME).get("task_type")), "generation")
    run, recorded = _read(folder / RUN_NAME), recorded_labels(folder)
    if labels is not None and recorded not in (None, labels):
        raise SpecError(
            f"--labels {','.join(labels)}: {adapter} records {','.join(recorded or ())}; leave --labels out"
        )
    return Training(
        run.get("model_kind", kind),
        recorded or labels,
        run.get("kind") == "regression",
        bool(run.get("conversations")),
    )


def say(notes: Iterable[str]) -> None:
    """Print sentences on stderr."""
    for note in notes:
        print(note, file=sys.stderr)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
