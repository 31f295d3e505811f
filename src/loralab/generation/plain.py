"""New tokens through transformers' `generate`: for encoder-decoders, and for whatever the engine does not take.

Alike long prompts share a batch (`padding`); of the model's own generation settings only those count that `settings`
keeps.

Shapes: B prompts of a batch, T tokens, V vocabulary.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from loralab.generation.config import GenerationConfig
from loralab.generation.ends import Ends
from loralab.generation.padding import batches, padded
from loralab.generation.sampling import sampled
from loralab.generation.settings import generating_with
from loralab.nn.mode import evaluating
from loralab.progress import tracked


class NoRepeatInNewText(LogitsProcessor):
    """Forbids a second occurrence of any n tokens among the new ones; the prompt's tokens are not counted."""

    def __init__(self, size: int, prompt_width: int) -> None:
        self._processor = NoRepeatNGramLogitsProcessor(size)
        self._prompt_width = prompt_width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`input_ids` [B, T] with the prompt; `scores` [B, V], returned with −∞ at the forbidden tokens."""
        allowed: Tensor = self._processor(input_ids[:, self._prompt_width :], scores)
        return allowed


def generate_plainly(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    more_ends: Ends,
    ends: list[int],
    pad_id: int,
    streamer: BaseStreamer | None = None,
) -> list[list[int]]:
    """New token ids after each prompt's, up to one of `ends`. Raises what `batches` raises."""
    answers: list[list[int]] = [[] for _ in prompts]
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), evaluating(model), torch.inference_mode():
        torch.manual_seed(config.seed)
        for batch in tracked(batches(model, prompts, config, pad_id), "batches of texts"):
            rows = [prompts[number] for number in batch]
            stopping = partial(more_ends.criteria, tokenizer)
            new = _generate_batch(model, rows, config, ends, pad_id, stopping, sampled(config, batch), streamer)
            for number, ids in zip(batch, new, strict=True):
                answers[number] = ids
    return answers


def _generate_batch(
    model: PreTrainedModel,
    prompts: list[list[int]],
    config: GenerationConfig,
    ends: list[int],
    pad_id: int,
    stopping: Callable[[int], StoppingCriteriaList],
    sampling: LogitsProcessorList,
    streamer: BaseStreamer | None,
) -> list[list[int]]:
    inputs = padded(model, prompts, pad_id)
    prompt_width = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]  # 1: the decoder's start
    processors = LogitsProcessorList()
    if config.no_repeat_ngram:
        processors.append(NoRepeatInNewText(config.no_repeat_ngram, prompt_width))
    with generating_with(model, _asked_settings(config, ends, pad_id)) as settings:
        output = model.generate(  # type: ignore[operator]
            **inputs,
            generation_config=settings,
            logits_processor=LogitsProcessorList([*processors, *sampling]),
            stopping_criteria=stopping(prompt_width),
            streamer=streamer,
        )
    return [_up_to_end(ids, ends) for ids in output[:, prompt_width:].tolist()]


def _asked_settings(config: GenerationConfig, ends: list[int], pad_id: int) -> dict[str, object]:
    """In transformers' names."""
    settings: dict[str, object] = {
        "max_new_tokens": config.max_new_tokens,
        "num_beams": config.beams,
        "do_sample": False,  # what is sampled, `sampling` has drawn before
        "eos_token_id": ends or None,
        "pad_token_id": pad_id,
    }
    if config.beams > 1:
        settings |= {"length_penalty": config.length_penalty, "early_stopping": False}
    return settings


def _up_to_end(ids: list[int], ends: list[int]) -> list[int]:
    return next((ids[:place] for place, token in enumerate(ids) if token in ends), ids)
