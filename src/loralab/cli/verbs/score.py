"""`loralab score`: any system's outputs, from a file, against references; no model."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loralab.cli.opening import say
from loralab.cli.predictions import file_to_read
from loralab.cli.showing import show_answer
from loralab.cli.verb import Answer, Verb
from loralab.errors import DataError, SpecError

if TYPE_CHECKING:
    from loralab.evaluation.score import Scored
    from loralab.tasks.task import Task

OFFICIAL = (".csv", ".tsv", ".xml", ".json", ".jsonl", ".xz")
"""Endings of a task's own files; anything else is a file with one reference a line."""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """The flags of `loralab score`."""

    task: str
    """The task, which says the metrics and how its files are read."""

    predictions: str
    """The system's outputs: one a line in the order of the unique inputs, or the task's own format; or the folder that
    eval wrote them into."""

    references: tuple[str, ...]
    """The official file; or several line-aligned files separated by commas, where a blank line means no reference."""


def run(config: ScoreConfig) -> Answer:
    """Read both sides, compare, answer with the metrics."""
    from loralab.tasks.outputs import read_text

    if config.task == "text":
        raise SpecError("task text holds texts that answer nothing: there are no outputs to score")
    if not Path(config.predictions).is_dir():
        read_text(Path(config.predictions))
    scored, count = _score_official(config) if _is_official(config.references) else _score_lines(config)
    say(scored.notes)
    return {"task": config.task, "examples": count} | asdict(scored)


def _is_official(references: tuple[str, ...]) -> bool:
    return len(references) == 1 and (Path(references[0]).suffix in OFFICIAL or Path(references[0]).is_dir())


def _score_official(config: ScoreConfig) -> "tuple[Scored, int]":
    """Against the task's own file."""
    from loralab.evaluation.score import require_answers, score_outputs
    from loralab.tasks.official import WHOLE_FILE
    from loralab.tasks.table import open_task

    task = open_task(config.task, config.references[0])
    examples = task.references(WHOLE_FILE if WHOLE_FILE in task.splits else "test")
    require_answers(task, examples)
    outputs = task.outputs.read(file_to_read(config.predictions, task), examples)
    return score_outputs(task, examples, outputs), len(outputs)


def _score_lines(config: ScoreConfig) -> "tuple[Scored, int]":
    """Against files with a line for each output."""
    from loralab.evaluation.score import score_lines
    from loralab.tasks.outputs import read_text, text_lines

    task = _task(config.task)
    predictions = file_to_read(config.predictions, task)
    outputs = [line.strip() for line in text_lines(read_text(predictions))]
    files = [[line.strip() for line in text_lines(read_text(Path(name)))] for name in config.references]
    for name, lines in zip(config.references, files, strict=True):
        if len(lines) != len(outputs):
            raise DataError(f"{name} has {len(lines)} lines, {predictions} {len(outputs)}; they must be aligned")
    return score_lines(task, outputs, list(zip(*files, strict=True))), len(outputs)


def _task(name: str) -> "Task":
    """The task without its data, which the lines are in place of."""
    from loralab.tasks.table import open_task
    from loralab.tasks.task import ROUGE, Task

    return Task(name, "generation", {}, ROUGE) if name == "jsonl" else open_task(name)


def show(answer: Answer) -> None:
    """The scores; what is noteworthy has been said."""
    show_answer({key: value for key, value in answer.items() if key != "notes"})


VERB = Verb(
    ScoreConfig,
    run,
    show,
    example=("loralab score --task e2e --predictions outputs.txt \\\n  --references testset_w_refs.csv"),
    needs=("metrics",),
)
