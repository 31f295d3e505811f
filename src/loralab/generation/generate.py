"""New tokens after prompts' tokens: greedy, sampled or by beam search, in the prompts' order.

The engine writes them where it writes what the model would (`suited`), transformers' `generate` where it does not
(`plain`). Of the model's own generation settings only those count that `settings` keeps: what is not asked for (a
repetition penalty, a sampling temperature) is off.
"""

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from loralab.errors import SpecError
from loralab.generation.config import GenerationConfig as GenerationConfig
from loralab.generation.continuous import generate_continuously
from loralab.generation.ends import NO_MORE, Ends
from loralab.generation.plain import generate_plainly
from loralab.generation.resident import ResidentEngine
from loralab.generation.suited import suits_engine
from loralab.models.context import context_length


def generate_ids(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    more_ends: Ends = NO_MORE,
    streamer: BaseStreamer | None = None,
    resident: ResidentEngine | None = None,
) -> list[list[int]]:
    """New token ids after each prompt's; ends are cut off but for ending texts, which `decode` cuts.

    A `streamer` is given the tokens of a single prompt as they come, without a beam search. A `resident`
    engine of the model is used where it can answer, and stays as it is for the next call.
    """
    _check_lengths(model, prompts, config.max_new_tokens)
    ends = end_ids(model, tokenizer, more_ends)
    if not prompts:
        return []
    if (streamer is None or config.beams == 1) and suits_engine(model, prompts, config):
        return generate_continuously(model, prompts, config, tokenizer, more_ends, ends, streamer, resident)
    return generate_plainly(model, prompts, config, tokenizer, more_ends, ends, _pad_id(tokenizer), streamer)


def decode(answers: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase, more_ends: Ends = NO_MORE) -> list[str]:
    """Token ids as text up to an ending text, without special tokens and without tidying of spaces."""
    return [
        more_ends.cut(str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)))
        for ids in answers
    ]


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
