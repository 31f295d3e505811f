"""`loralab eval`: a model, with or without an adapter, measured on one split of a task."""

from dataclasses import asdict, dataclass

from loralab.cli.adapted import AdaptedModel, load_adapted, say, training_for, training_of
from loralab.cli.answer import show_answer
from loralab.cli.verb import Answer, Verb
from loralab.generation.config import GenerationConfig

MOST_SAMPLES = 8
"""Generated texts in the answer, spread evenly over the split."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig(AdaptedModel, GenerationConfig):
    """Everything that `loralab eval` can be told; how to generate counts only with `generate`."""

    task: str
    """The task: docstrings, e2e, or jsonl."""

    data: str | None = None
    """The task's data: the official files, or your own JSONL."""

    split: str = "test"
    """Which split of the task to measure on."""

    limit: int | None = None
    """Use only the first N examples of the split."""

    generate: bool = False
    """Also generate a text for every example and score it against its references."""

    max_length: int = 512
    """Tokens of prompt and target together; a longer prompt loses its left end."""


def run(config: EvalConfig) -> Answer:
    """Open the task, load the model with its adapter, measure."""
    from loralab.evaluation.evaluate import evaluate
    from loralab.tasks.task import open_task

    task = open_task(config.task, config.data, labels=training_of(config.adapter).labels)
    say(task.notes)
    loaded = load_adapted(config, training_for(task))
    found = evaluate(
        loaded.model,
        loaded.tokenizer,
        task,
        config.split,
        limit=config.limit,
        generate=config.generate,
        generation=config,
        batch_size=config.batch_size,
        max_length=config.max_length,
    )
    say(found.notes)
    spread = found.samples[:: max(1, len(found.samples) // MOST_SAMPLES)][:MOST_SAMPLES]
    return asdict(found) | {"samples": [asdict(sample) for sample in spread]}


def show(answer: Answer) -> None:
    """The scores; the samples are for --json."""
    show_answer({key: value for key, value in answer.items() if key not in ("samples", "notes")})


VERB = Verb(
    EvalConfig,
    run,
    show,
    example="loralab eval --model smollm2-135m --task docstrings --limit 100 --generate",
)
