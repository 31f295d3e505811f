"""Flags that several verbs share: which model, which adapter, which task, and how to load them.

A verb's configuration inherits them and adds its own. What a verb works on stands first on its help page.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from loralab.analysis.layers.config import SampledText
from loralab.generation.config import GenerationConfig

ESSENTIALS = (
    *("data", "method", "methods", "rank", "alpha", "targets", "steps", "epochs", "batch_size", "lr", "limit"),
    *("max_length", "sequence_length", "dtype", "device", "seed", "seeds", "resume", "overwrite"),
)
"""What is usually said of a training, in this order; a verb has those of them that it has."""

Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class NamesModel:
    """A verb of one model."""

    first: ClassVar[bool] = True

    model: str
    """The base model: an embedded name (smollm2-135m, minilm-l6), a local folder, or a Hub id."""


@dataclass(frozen=True, kw_only=True)
class ChoosesCheckpoint:
    """Which of the adapters that a run has."""

    checkpoint: str | None = None
    """Of a run's folder: best, last, or a step, for the adapter of that checkpoint, also of a run that did not end."""


@dataclass(frozen=True, kw_only=True)
class NamesAdapter(ChoosesCheckpoint):
    """A verb of one adapter."""

    first: ClassVar[bool] = True

    adapter: str
    """The adapter: its folder, ours or PEFT's, or a loralib checkpoint."""


@dataclass(frozen=True, kw_only=True)
class ReadsAdapter(NamesAdapter):
    """A verb that looks into an adapter's files: it is named without a flag."""

    first: ClassVar[bool] = True

    adapter: str = field(metadata={"positional": True})


@dataclass(frozen=True, kw_only=True)
class NamesTask:
    """A verb of one task."""

    first: ClassVar[bool] = True

    task: str
    """The task: jsonl for rows of your own in any format (--task jsonl --data FILE), text for raw text, images;
    docstrings, glue/cola (sst2, mrpc, …), e2e, webnlg, dart, wikisql, or samsum."""

    data: str | None = None
    """The task's data: the official files, or your own: JSONL, JSON, CSV, TSV, Parquet, or a folder of these or of
    datasets; text files for text."""

    max_length: int = 512
    """Tokens of prompt and target together; a longer prompt loses its left end."""


@dataclass(frozen=True, kw_only=True)
class GivesAlpha:
    """What a loralib checkpoint leaves out."""

    alpha: float | None = None
    """The alpha of a loralib checkpoint, which does not record it."""


@dataclass(frozen=True, kw_only=True)
class ChoosesModules:
    """Some modules of an adapter."""

    modules: str | None = None
    """Only modules whose path contains a match of this regular expression."""


@dataclass(frozen=True, kw_only=True)
class Loading(GivesAlpha):
    """How to load a model and an adapter."""

    allow_other_base: bool = False
    """Load the adapter even if it was trained on another base model."""

    dtype: Precision = "auto"
    """Precision of the base model; auto is bfloat16 where the processor multiplies it natively."""

    quantize: Literal["nf4", "nf4-double"] | None = None
    """Keep the dense layers of the base in 4 bits, as a training with the same flag did."""

    labels: tuple[str, ...] | None = None
    """The classes in the order of the model's outputs, for an adapter or a checkpoint that does not record it."""


@dataclass(frozen=True, kw_only=True)
class AdaptedModel(NamesModel, Loading, ChoosesCheckpoint):
    """A model, and an adapter if one is named."""

    adapter: str | None = None
    """The adapter to put on the model: its folder, or a loralib checkpoint. Without it the base model alone."""


@dataclass(frozen=True, kw_only=True)
class MeasuredAdapter(NamesModel, NamesAdapter, NamesTask, Loading, GenerationConfig):
    """A model, an adapter, and what to measure; how to generate counts only for metrics of generated text."""

    out: str
    """Folder for the table as JSON and the picture."""

    split: str = "validation"
    """Which split of the task to measure on: one that the adapter was not trained on."""

    limit: int | None = 64
    """Use only the first N examples of the split; none: all of them."""

    metric: str | None = None
    """What to measure: loss, or a metric of the task (rouge_l, accuracy, …; those of text generate it). The default
    is the loss of a language model, and the first metric of a classification.
    """


@dataclass(frozen=True, kw_only=True)
class ReadsText(AdaptedModel, SampledText):
    """A model, an adapter if one is named, and the text to run through it."""

    dtype: Precision = "float32"
    """Precision of the model. bfloat16 rounds the residual stream by 0.4 %, as much as some blocks add to it."""
