"""`loralab eval`: a model, with or without an adapter, measured on one split of a task."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from loralab.cli.flags import AdaptedModel, NamesTask, WritesFolder
from loralab.cli.opening import load_adapted, open_ordered, say, wanted_for
from loralab.cli.predictions import file_to_write
from loralab.cli.showing import show_answer
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import TEXT, writing
from loralab.errors import DataError, SpecError
from loralab.generation.config import GenerationConfig

if TYPE_CHECKING:
    from loralab.evaluation.evaluate import Evaluation
    from loralab.tasks.task import Task

MOST_SAMPLES = 8
"""Generated texts in the answer, spread evenly over the split."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig(AdaptedModel, NamesTask, WritesFolder, GenerationConfig):
    """The flags of `loralab eval`; how to generate counts only with `generate`."""

    kind: Literal["classification", "regression"] | None = None
    """What the labels of your own data are, where numbers could be either; an adapter's run says it otherwise."""

    split: str = "test"
    """Which split of the task to measure on."""

    limit: int | None = None
    """Use only the first N examples of the split."""

    generate: bool = False
    """Also generate a text for every example and score it against its references."""

    predictions: str | None = None
    """Write what the model says to every example into this file, in the task's own format (GLUE: a submission), or
    into the file of the official name in this folder, which is made where it ends with a slash."""


def run(config: EvalConfig) -> Answer:
    """Open the task, load the model with its adapter, measure."""
    from loralab.evaluation.score import require_metrics

    task = open_ordered(config.task, config.data, config.model, config.adapter, config.labels, config.kind)
    if config.predictions is not None and task.kind == "generation" and not config.generate:
        raise SpecError(f"--predictions needs --generate: without it the model writes no text for task {task.name}")
    require_metrics(task, task.examples(config.split, config.limit), generate=config.generate)
    place = (
        None if config.predictions is None else file_to_write(config.predictions, task, task.split_named(config.split))
    )
    with writing(str(place) if place else None, TEXT, overwrite=config.overwrite, reads=(config.data,)):
        return _evaluate(config, task, place)


def _evaluate(config: EvalConfig, task: "Task", place: Path | None) -> Answer:
    """The answer; what was said to every example is written where a place is named."""
    from loralab.evaluation.evaluate import evaluate

    loaded = load_adapted(config, wanted_for(task))
    evaluation = evaluate(
        loaded.model,
        loaded.processor,
        task,
        config.split,
        limit=config.limit,
        generate=config.generate,
        generation=config,
        batch_size=config.batch_size,
        max_length=config.max_length,
    )
    say(evaluation.notes)
    if evaluation.loss is None and place is None:
        raise DataError(
            f"the split {evaluation.split} of task {task.name} has no labels to score against; choose another split, "
            "or give --predictions FILE to write what the model predicts"
        )
    if place is not None:
        _write(place, task, evaluation, config)
        say([f"predictions written to {place}"])
    spread = evaluation.samples[:: max(1, len(evaluation.samples) // MOST_SAMPLES)][:MOST_SAMPLES]
    answer = asdict(evaluation) | {"samples": [asdict(sample) for sample in spread]}
    del answer["outputs"]
    return answer


def _write(place: Path, task: "Task", evaluation: "Evaluation", config: EvalConfig) -> None:
    """The file of all outputs."""
    from loralab.files.whole import write_text

    write_text(place, task.outputs.render(task.examples(evaluation.split, config.limit), evaluation.outputs))


def show(answer: Answer) -> None:
    """The scores; the samples are for --json."""
    show_answer({key: value for key, value in answer.items() if key not in ("samples", "notes")})


VERB = Verb(
    EvalConfig,
    run,
    show,
    example="loralab eval --model smollm2-135m --task docstrings --limit 100 --generate",
)
