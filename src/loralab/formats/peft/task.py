"""PEFT's task type of a model: which of PEFT's wrappers calls it, and so with which arguments.

PEFT's wrappers pass their arguments by name, whether or not the caller gave them, so a model that has no such
argument (speech, images, text beside images) does not run in one: it is left without a task type, and PEFT then
passes on whatever it is called with.
"""

import inspect
from collections.abc import Sequence

from torch import nn

from loralab.core.names import modules_by_path, unwrapped

_TASKS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "MTModel": "SEQ_2_SEQ_LM",
    "EncoderDecoderModel": "SEQ_2_SEQ_LM",
}
"""Ending of a class's name -> the task type that it may have."""
_TEXT = ("input_ids", "attention_mask", "inputs_embeds")
_PASSED = {
    "CAUSAL_LM": (*_TEXT, "labels"),
    "SEQ_CLS": (*_TEXT, "labels"),
    "TOKEN_CLS": (*_TEXT, "labels"),
    "QUESTION_ANS": (*_TEXT, "start_positions", "end_positions"),
    "SEQ_2_SEQ_LM": (*_TEXT, "labels", "decoder_input_ids", "decoder_attention_mask", "decoder_inputs_embeds"),
}
"""Task type -> the arguments that its wrapper in PEFT 0.21 passes in every call."""
_OTHER_SENSES = ("pixel_", "image", "video", "audio", "input_features", "input_values")
"""What the arguments of a model begin with that reads more than text."""
_HEADS_PEFT_SAVES = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""Task type -> endings of the modules that PEFT then trains and saves in full, whatever modules_to_save says."""


def task_type(model: nn.Module | None, heads: Sequence[str]) -> str | None:
    """PEFT's task type, None where its wrapper does not fit the model or expects a head that is not among `heads`."""
    if model is None:
        return None
    inner = unwrapped(model)
    task = next((task for ending, task in _TASKS.items() if type(inner).__name__.endswith(ending)), None)
    if task is None or not _takes(inner, task):
        return None
    expected = [path for path in modules_by_path(model) if path.endswith(heads_peft_saves(task))]
    return task if set(expected) <= set(heads) else None


def heads_peft_saves(task: str | None) -> tuple[str, ...]:
    """Endings of the paths of the modules that PEFT saves in full for this task."""
    return _HEADS_PEFT_SAVES.get(task or "", ())


def _takes(model: nn.Module, task: str) -> bool:
    arguments = inspect.signature(type(model).forward).parameters
    return set(_PASSED[task]) <= arguments.keys() and not any(each.startswith(_OTHER_SENSES) for each in arguments)
