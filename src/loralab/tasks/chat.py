"""Conversations through a tokenizer's chat template, parted into what is said to the model and what it says.

A template is a program that writes a whole conversation; where an assistant's turn begins is found by writing the
conversation up to that turn with the generation prompt, and up to its end. It knows nothing of token ids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from loralab.errors import DataError
from loralab.tasks.example import Conversation, Message


@dataclass(frozen=True)
class Segment:
    """A piece of text, and whether it is a target."""

    text: str
    target: bool


def conversation_segments(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> list[Segment]:
    """The templated conversation in pieces, alternately context and an assistant's turn.

    An assistant's turn ends with the end-of-text token where the template writes one; the line break that many
    templates put after it is context of what follows, and left out at the end. Raises `DataError` where the
    tokenizer has no template, or one that writes a turn otherwise once more turns follow.
    """
    _check_all_is_written(conversation, tokenizer)
    messages = conversation.messages
    written, segments = "", []
    for place, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before = _render(messages[:place], tokenizer, conversation.tools, prompted=True)
        after = _render(messages[: place + 1], tokenizer, conversation.tools, prompted=False)
        if not before.startswith(written) or not after.startswith(before):
            raise DataError(
                f"the chat template writes turn {place + 1} otherwise when it is the last, "
                "so its targets cannot be found; use a tokenizer whose template only appends, "
                'or give {"prompt", "completion"}'
            )
        said = _up_to_end(after[len(before) :], tokenizer)
        segments += [Segment(before[len(written) :], False), Segment(said, True)]
        written = before + said
    return segments


def generation_prompt(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> str:
    """The conversation without its last turn, and what makes the model answer."""
    return _render(conversation.messages[:-1], tokenizer, conversation.tools, prompted=True)


def _up_to_end(said: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The turn without the space that follows its end-of-text token."""
    end = str(tokenizer.eos_token)
    return said.rstrip() if said.rstrip().endswith(end) else said


def _check_all_is_written(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises `DataError` for tools, or calls of them, that the template passes over: the model would never see them."""
    messages, tools = conversation.messages, conversation.tools
    called = [message for message in messages if "tool_calls" in message.more]
    if not tools and not called:
        return
    whole = _render(messages, tokenizer, tools, prompted=False)
    plain = tuple(replace(each, more={}) if each in called else each for each in messages)
    passed_over = [
        *(["tools"] if tools and _render(messages, tokenizer, (), prompted=False) == whole else []),
        *(["tool_calls"] if called and _render(plain, tokenizer, tools, prompted=False) == whole else []),
    ]
    if passed_over:
        raise DataError(
            f"the conversations have {' and '.join(passed_over)}, which the tokenizer's chat template does not write; "
            "choose a model whose template does, or leave them out"
        )


def _render(
    messages: tuple[Message, ...],
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[Mapping[str, Any]],
    *,
    prompted: bool,
) -> str:
    turns = [message.turn() for message in messages]
    if tokenizer.chat_template is None:
        raise DataError(
            "the tokenizer has no chat template, which messages need; choose an instruction-tuned model, "
            'or give {"prompt", "completion"}'
        )
    try:
        return str(
            tokenizer.apply_chat_template(
                turns, tools=[dict(tool) for tool in tools] or None, tokenize=False, add_generation_prompt=prompted
            )
        )
    except TemplateError as error:
        raise DataError(
            f"the chat template refuses the turns {[message.role for message in messages]}: {error}"
        ) from error
