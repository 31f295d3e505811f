"""A run's examples laid into long rows, where the task and the model allow it."""

import torch
from transformers import PreTrainedModel

from loralab.errors import SpecError
from loralab.evaluation.evaluate import room_for
from loralab.models.packed import check_keeps_apart
from loralab.tasks.encoding.encode import Encoding
from loralab.tasks.encoding.encoded import AnyEncoded, Encoded
from loralab.tasks.encoding.packing import pack
from loralab.tasks.task import Task
from loralab.training.config import TrainConfig

TRIED = 16
"""Tokens of an example that a model is tried with."""


def packed(
    config: TrainConfig, task: Task, model: PreTrainedModel, encoding: Encoding
) -> tuple[list[AnyEncoded], tuple[str, ...]]:
    """(what the batches are made of, what is to be said of it): the examples, or with `packing` rows of several.

    Raises `SpecError` for a task whose targets are no tokens, and for a model that does not keep examples apart.
    """
    if not config.packing:
        return list(encoding.encoded), ()
    if task.kind != "generation":
        raise SpecError(f"packing joins texts of which tokens are learned, and task {task.name} is a {task.kind}")
    texts = [each for each in encoding.encoded if isinstance(each, Encoded)]
    first, second = (torch.tensor(each.input_ids[:TRIED]) for each in (texts[0], texts[-1]))
    check_keeps_apart(model, first, second)
    packing = pack(texts, room_for(model, config.max_length), config.seed)
    return list(packing.rows), (packing.note(config.batch_size),)
