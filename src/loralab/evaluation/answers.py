"""A language model's answers to examples: given what training has before each target, it stops where that ends."""

import sys
from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loralab.errors import SpecError
from loralab.generation.config import GenerationConfig
from loralab.generation.ends import NO_MORE, turn_ends
from loralab.generation.generate import decode, generate_ids
from loralab.methods.prefix.update import text_room
from loralab.tasks.encoding.encode import encode_prompts
from loralab.tasks.encoding.tokens import prompt_ids
from loralab.tasks.example import Conversation, Example


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example | Conversation],
    config: GenerationConfig,
    max_length: int | None = None,
) -> list[str]:
    """What the model writes after each prompt or conversation but its last turn, without special tokens.

    Prompts lose their left end beyond `max_length` tokens and the model's room; without it none is cut. Raises
    `SpecError` where prompts and new tokens do not fit.
    """
    encoder_decoder = bool(model.config.is_encoder_decoder)
    longest = sys.maxsize if max_length is None else _room(model, config, max_length)
    prompts = encode_prompts(examples, tokenizer, longest, encoder_decoder=encoder_decoder)
    spoken = any(isinstance(each, Conversation) for each in examples)
    ends = turn_ends(tokenizer) if spoken else NO_MORE
    texts = decode(generate_ids(model, prompts, config, tokenizer, ends), tokenizer, ends)
    if encoder_decoder:
        return texts
    return [_after(*each, tokenizer) for each in zip(examples, prompts, texts, strict=True)]


def _room(model: PreTrainedModel, config: GenerationConfig, max_length: int) -> int:
    context = text_room(model)
    if context is None or model.config.is_encoder_decoder:
        return min(max_length, context or max_length)
    if config.max_new_tokens >= context:
        raise SpecError(
            f"{config.max_new_tokens} new tokens do not fit into the model's context of {context}; ask for fewer"
        )
    return min(max_length, context - config.max_new_tokens)


def _after(example: Example | Conversation, ids: Sequence[int], text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """What follows the prompt: a space that ends it was left to the model to write (`tokens.context_ids`)."""
    if not isinstance(example, Example) or not example.prompt.endswith(" "):
        return text
    left = len(ids) < len(prompt_ids([example.prompt], tokenizer)[0])
    return text.removeprefix(" ") if left else text
