"""A model and a task -> scores: the loss, and the task's own metrics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loralab.errors import SpecError
from loralab.evaluation.answers import answers
from loralab.evaluation.few import few_examples
from loralab.evaluation.label_order import in_order_of_model
from loralab.evaluation.labels import predict_labels
from loralab.evaluation.likelihood import mean_target_loss
from loralab.evaluation.preference import measure_pairs
from loralab.evaluation.score import Scored, require_metrics, score_outputs
from loralab.evaluation.token_cache import encoded_once
from loralab.generation.config import GenerationConfig
from loralab.generation.settings import forced_first_token
from loralab.methods.prefix.update import text_room
from loralab.nn.mode import evaluating
from loralab.processes.group import ALONE, Processes
from loralab.tasks.encoding.encode import Encoding, Processor, encode_examples, padding_id
from loralab.tasks.encoding.first_token import begin_targets
from loralab.tasks.example import AnyExample, Conversation, Document, Example, Examples
from loralab.tasks.task import Task

LARGEST_EXPONENT = 700.0
"""Beyond this loss the perplexity overflows a float; it stays at e^700."""


@dataclass(frozen=True)
class Sample:
    """One generated text beside what was asked and what is right."""

    prompt: str
    prediction: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model on one split of a task."""

    task: str
    split: str
    examples: int
    loss: float | None
    """Nats per target token over the whole split, every token with the same weight; for classes nats per example,
    for values the mean squared error, for pairs of answers the objective's mean; None where the labels are not known.
    """
    metrics: dict[str, float]
    """By the names and in the units of docs/reference/metrics.md; `perplexity` is e to the loss."""
    parts: dict[str, dict[str, float]]
    """The task's metrics of each part of the split (WebNLG: seen, unseen), where it has parts."""
    samples: tuple[Sample, ...]
    """With generation, every example's text in the order of the split; else none."""
    outputs: tuple[str, ...]
    """What the model said to every example, in the order of the split: the generated text, the name of the class, or
    the value; empty for a generation task without generation.
    """
    truncated: int
    """Examples that were cut to fit."""
    notes: tuple[str, ...]
    """Sentences for the log."""
    rows: int = 0
    """What the figures are measured on: the examples; of documents the rows that they are cut into."""


def evaluate(
    model: PreTrainedModel,
    tokenizer: Processor,
    task: Task,
    split: str,
    *,
    limit: int | None = None,
    generate: bool = False,
    generation: GenerationConfig | None = None,
    batch_size: int = 16,
    max_length: int = 512,
    processes: Processes = ALONE,
) -> Evaluation:
    """The scores of the model, as it is now, on a split or its first `limit` examples.

    `tokenizer` is the model's own, or the image processor of one that looks at images. With `generate` a text is
    generated for every example and scored against its references. The model is in evaluation mode meanwhile, and
    afterwards as before. Examples of more than `max_length` tokens, or than the model's context, are cut as
    `encode_examples` says. Classes are numbered as the model names its outputs, where it has the same
    ones. A split without labels is predicted, and not scored. Several `processes`, each with the model, share the
    batches out and all have the scores. Raises `SpecError` for arguments that do not fit the task
    or model, and for a model of other classes.
    """
    if generate and task.kind != "generation":
        raise SpecError(f"task {task.name} is a {task.kind}: there is no text to generate; leave out generate")
    task, ordered = in_order_of_model(task, model.config)
    examples = task.examples(split, limit)
    if generate and isinstance(examples[0], Document):
        raise SpecError(f"task {task.name} holds texts without prompts: there is nothing to answer; leave out generate")
    require_metrics(task, examples, generate=generate)
    encoding = encode_for(model, tokenizer, task, examples, max_length)
    pad_id = padding_id(tokenizer)
    samples: tuple[Sample, ...] = ()
    outputs: tuple[str, ...] = ()
    with evaluating(model):
        measured: dict[str, float] = {}
        if task.kind == "generation":
            loss: float | None = mean_target_loss(model, encoding.encoded, pad_id, batch_size, processes)
        elif task.kind == "preference":
            loss, measured = measure_pairs(model, encoding.encoded, pad_id, batch_size, task.preference, processes)
        else:
            _check_outputs(model, task)
            predictions, loss = predict_labels(model, encoding.encoded, pad_id, batch_size, processes)
            outputs = tuple(_in_words(task, prediction) for prediction in predictions)
        if generate and isinstance(tokenizer, PreTrainedTokenizerBase):
            settings = generation or GenerationConfig(batch_size=batch_size)
            samples = _generate_samples(model, tokenizer, examples, settings, max_length)
            outputs = tuple(sample.prediction for sample in samples)
    scored = score_outputs(task, examples, outputs) if outputs and loss is not None else Scored({}, {}, ())
    return Evaluation(
        task=task.name,
        split=task.split_named(split),
        examples=len(examples),
        loss=loss,
        metrics=(_perplexity(loss) if task.kind == "generation" else measured) | scored.metrics,
        parts=scored.parts,
        samples=samples,
        outputs=outputs,
        truncated=encoding.truncated,
        notes=(*ordered, *encoding.notes, *scored.notes, *few_examples(len(encoding.encoded))),
        rows=len(encoding.encoded),
    )


def encode_for(
    model: PreTrainedModel, processor: Processor, task: Task, examples: Examples, max_length: int
) -> Encoding:
    """The examples as the model takes them, in training as in evaluation: cut to what it has room for."""
    longest, first = room_for(model, max_length), forced_first_token(model)
    encoder_decoder = bool(getattr(model.config, "is_encoder_decoder", False))

    def encode() -> Encoding:
        encoding = encode_examples(task, examples, processor, longest, encoder_decoder=encoder_decoder)
        return begin_targets(encoding, first, longest)

    return encoded_once(task, examples, processor, (longest, encoder_decoder, first), encode)


def room_for(model: PreTrainedModel, max_length: int) -> int:
    """The tokens of a row: as many as asked for, but no more than the model has room for."""
    return min(max_length, text_room(model) or max_length)


def _perplexity(loss: float | None) -> dict[str, float]:
    return {} if loss is None else {"perplexity": math.exp(min(loss, LARGEST_EXPONENT))}


def _check_outputs(model: PreTrainedModel, task: Task) -> None:
    outputs = 1 if task.kind == "regression" else len(task.labels)
    if model.config.num_labels != outputs:
        raise SpecError(
            f"the model has {model.config.num_labels} outputs, task {task.name} needs {outputs}; "
            "load it with the task's labels"
        )


def _in_words(task: Task, prediction: float) -> str:
    """The class's name, or the value with all its digits."""
    return task.labels[int(prediction)] if task.kind == "classification" else repr(prediction)


def _generate_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[AnyExample],
    config: GenerationConfig,
    max_length: int,
) -> tuple[Sample, ...]:
    written = [each for each in examples if isinstance(each, Example | Conversation)]
    texts = answers(model, tokenizer, written, config, max_length)
    return tuple(
        Sample(prompt_of(example), text.strip(), example.answers())
        for example, text in zip(written, texts, strict=True)
    )


def prompt_of(example: Example | Conversation) -> str:
    """What was asked, to show: the prompt, or the turn before the last."""
    return example.prompt if isinstance(example, Example) else example.messages[-2].content
