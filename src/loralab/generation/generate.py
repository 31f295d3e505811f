"""New tokens after prompts' tokens: in batches, greedy, sampled or by beam search, through transformers' `generate`.

Alike long prompts share a batch (`padding`), and answers come back in the prompts' order. Of the model's own generation
settings only those count that `settings` keeps: what is not asked for (a repetition penalty, a sampling temperature) is
off.

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

from loralab.errors import SpecError
from loralab.generation.config import GenerationConfig as GenerationConfig
from loralab.generation.ends import NO_MORE, Ends
from loralab.generation.padding import batches, padded
from loralab.generation.sampling import sampled
from loralab.generation.settings import generating_with
from loralab.models.context import context_length
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


def generate_ids(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    more_ends: Ends = NO_MORE,
    streamer: BaseStreamer | None = None,
) -> list[list[int]]:
    """New token ids after each prompt's; ends are cut off but for ending texts, which `decode` cuts.

    A `streamer` is given the tokens of a single prompt as they come, without a beam search.
    """
    _check_lengths(model, prompts, config.max_new_tokens)
    ends = end_ids(model, tokenizer, more_ends)
    pad_id = _pad_id(tokenizer)
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


def decode(answers: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase, more_ends: Ends = NO_MORE) -> list[str]:
    """Token ids as text up to an ending text, without special tokens and without tidying of spaces."""
    return [
        more_ends.cut(str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)))
        for ids in answers
    ]


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


def _check_lengths(model: PreTrainedModel, prompts: Sequence[list[int]], max_new_tokens: int) -> None:
    context = context_length(model)
    if context is None:
        return
    room = context if model.config.is_encoder_decoder else context - max_new_tokens
    for number, ids in enumerate(prompts, start=1):
        if len(ids) > room:
            raise SpecError(
                f"prompt {number} has {len(ids)} tokens and {max_new_tokens} new ones are to follow, but the model's "
                f"context is {context} tokens; shorten the prompt or max_new_tokens"
            )


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, more_ends: Ends = NO_MORE) -> list[int]:
    """The tokenizer's end of text, those of the model's generation settings (an end of turn), and more."""
    own = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = own if isinstance(own, list) else [own]
    return sorted({int(each) for each in (*ends, tokenizer.eos_token_id, *more_ends.tokens) if each is not None})


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return int(pad or 0)


def _up_to_end(ids: list[int], ends: list[int]) -> list[int]:
    return next((ids[:place] for place, token in enumerate(ids) if token in ends), ids)
