"""An adapter measured on a task, as the flags name them: shared by the analyses that change the adapter and look."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loralab.cli.opening import LoadingFlags, load_adapter, load_base, open_ordered, say, training_for
from loralab.generation.config import GenerationConfig

if TYPE_CHECKING:
    from loralab.analysis.adapters.measurement import Measurement
    from loralab.core.adapter import Adapter


@dataclass(frozen=True, kw_only=True)
class MeasuredAdapter(LoadingFlags, GenerationConfig):
    """A model, an adapter, and what to measure; how to generate counts only for metrics of generated text."""

    model: str
    """The base model: an embedded name (smollm2-135m, minilm-l6), a local folder, or a Hub id."""

    adapter: str
    """The adapter: its folder, ours or PEFT's, or a loralib checkpoint."""

    task: str
    """The task: docstrings, jsonl, images, glue/cola (sst2, mrpc, …), e2e, webnlg, dart, wikisql, or samsum."""

    out: str
    """Folder for the table as JSON and the picture."""

    data: str | None = None
    """The task's data: the official files, or your own JSONL."""

    split: str = "validation"
    """Which split of the task to measure on: one that the adapter was not trained on."""

    limit: int | None = 64
    """Use only the first N examples of the split; none: all of them."""

    metric: str | None = None
    """What to measure: loss, or a metric of the task (rouge_l, accuracy, …; those of text generate it). The default
    is the loss of a language model, and the first metric of a classification.
    """

    max_length: int = 512
    """Tokens of prompt and target together; a longer prompt loses its left end."""


def open_measured(config: MeasuredAdapter) -> "tuple[Adapter, Measurement]":
    """The adapter, active on its model, and what measures the model as it is. Raises what loading both raises."""
    from loralab.analysis.adapters.measurement import Measurement, default_metric

    task = open_ordered(config.task, config.data, config.model, config.adapter, config.labels)
    loaded = load_base(config.model, config.dtype, training_for(task), adapter=config.adapter)
    measurement = Measurement(
        loaded.model,
        loaded.processor,
        task,
        task.split_named(config.split),
        config.limit,
        config.metric or default_metric(task),
        config,
        config.max_length,
        lambda sentence: say([sentence]),
    )
    return load_adapter(config.adapter, config, loaded), measurement
