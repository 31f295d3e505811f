"""A tokenizer's chat template at work: turns as the text that it writes."""

import re
from typing import Any, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from loralab.errors import DataError
from loralab.tasks.example import Conversation

_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


def render(conversation: Conversation, tokenizer: PreTrainedTokenizerBase, *, prompted: bool) -> str:
    """The turns as one text; `prompted`, with what makes the model answer.

    Raises `DataError` where the tokenizer has no template, or one that refuses these turns.
    """
    turns = _turns(conversation, tokenizer)
    try:
        return str(
            tokenizer.apply_chat_template(
                turns, tools=_tools(conversation), tokenize=False, add_generation_prompt=prompted
            )
        )
    except TemplateError as error:
        raise _refused(conversation, error) from error


def marks_answers(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template itself says what the assistant wrote, between {% generation %} and {% endgeneration %}."""
    return tokenizer.chat_template is not None and bool(_MARK.search(tokenizer.get_chat_template()))


def marked_spans(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, int], ...]:
    """Where in the text the template says that the assistant wrote. Raises what `render` does."""
    try:
        _, spans = cast(Any, render_jinja_template)(
            conversations=[_turns(conversation, tokenizer)],
            tools=_tools(conversation),
            chat_template=tokenizer.get_chat_template(),
            return_assistant_tokens_mask=True,
            **tokenizer.special_tokens_map,
        )
    except TemplateError as error:
        raise _refused(conversation, error) from error
    return tuple((int(start), int(end)) for start, end in spans[0] if end > start)


def _turns(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    if tokenizer.chat_template is None:
        raise DataError(
            "the tokenizer has no chat template, which messages need; choose an instruction-tuned model, "
            'or give {"prompt", "completion"}, of pairs {"prompt", "chosen", "rejected"}'
        )
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        named = ", ".join(sorted(tokenizer.chat_template))
        raise DataError(f"the tokenizer has the chat templates {named} and no default; set its chat_template to one")
    return [message.turn() for message in conversation.messages]


def _tools(conversation: Conversation) -> Any:
    return [dict(tool) for tool in conversation.tools] or None


def _refused(conversation: Conversation, error: TemplateError) -> DataError:
    return DataError(
        f"the chat template refuses the turns {[message.role for message in conversation.messages]}: {error}"
    )
