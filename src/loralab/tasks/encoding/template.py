"""A tokenizer's chat template at work: turns as the text that it writes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from loralab.errors import DataError, first_line
from loralab.tasks.encoding.limits import TEMPLATE_ERRORS, limited, refuse_powers
from loralab.tasks.example import Conversation

_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


def render(conversation: Conversation, tokenizer: PreTrainedTokenizerBase, *, prompted: bool) -> str:
    """The turns as one text; `prompted`, with what makes the model answer.

    Raises `DataError` where the tokenizer has no template, or one that refuses these turns.
    """
    turns, tools = _turns(conversation, tokenizer), _tools(conversation)
    with _answering_for(conversation), limited():
        return str(tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=prompted))


def marks_answers(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template itself says what the assistant wrote, between {% generation %} and {% endgeneration %}."""
    return tokenizer.chat_template is not None and bool(_MARK.search(tokenizer.get_chat_template()))


def marked_spans(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, int], ...]:
    """Where in the text the template says that the assistant wrote. Raises what `render` does."""
    with _answering_for(conversation), limited():
        _, spans = cast(Any, render_jinja_template)(
            conversations=[_turns(conversation, tokenizer)],
            tools=_tools(conversation),
            chat_template=tokenizer.get_chat_template(),
            return_assistant_tokens_mask=True,
            **tokenizer.special_tokens_map,
        )
    return tuple((int(start), int(end)) for start, end in spans[0] if end > start)


def _turns(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    if tokenizer.chat_template is None:
        raise DataError(
            "the tokenizer has no chat template, which messages need; choose an instruction-tuned model, "
            'or give {"prompt", "completion"}'
        )
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        named = ", ".join(sorted(tokenizer.chat_template))
        raise DataError(f"the tokenizer has the chat templates {named} and no default; set its chat_template to one")
    refuse_powers(tokenizer.get_chat_template())
    return [message.turn() for message in conversation.messages]


def _tools(conversation: Conversation) -> Any:
    return [dict(tool) for tool in conversation.tools] or None


@contextmanager
def _answering_for(conversation: Conversation) -> Iterator[None]:
    """`DataError` for what a template may raise: its own refusal, and whatever its expressions do wrong."""
    try:
        yield
    except TEMPLATE_ERRORS as error:
        raise DataError(
            f"the chat template refuses the turns {[message.role for message in conversation.messages]}: "
            f"{first_line(error)}; correct the turns, or the tokenizer's chat_template"
        ) from error
