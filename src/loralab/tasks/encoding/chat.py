"""Conversations through a tokenizer's chat template: the whole text, and which pieces of it are the assistant's.

A template is a program that writes a whole conversation. Some mark what the assistant wrote, and are taken at their
word. For others a turn is found by writing the conversation up to it with the generation prompt, and up to its end. A
template that writes a turn otherwise once more turns follow (it drops the thinking of earlier ones, say) shows a model
something there that it will never be asked for: such turns are no targets, and counted; the last is one always. It
knows nothing of token ids.
"""

from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from loralab.errors import DataError
from loralab.tasks.encoding.template import marked_spans, marks_answers, render
from loralab.tasks.encoding.turn_end import ANSWER, TurnEnd
from loralab.tasks.example import Conversation, Message


@dataclass(frozen=True)
class Templated:
    """A conversation as its template writes it."""

    text: str
    targets: tuple[tuple[int, int], ...]
    """Where the assistant's turns begin and end, each with its end of turn."""
    left: int
    """How many of the assistant's turns are no targets."""


def templated(conversation: Conversation, tokenizer: PreTrainedTokenizerBase, end: TurnEnd) -> Templated:
    """The conversation as one text with its targets, which is what `apply_chat_template` writes.

    Raises `DataError` where the tokenizer has no template, or one that does not write what the assistant says.
    """
    text, messages = render(conversation, tokenizer, prompted=False), conversation.messages
    _check_all_is_written(conversation, tokenizer, text)
    if marks_answers(tokenizer):
        spans = marked_spans(conversation, tokenizer)
    else:
        turns = [place for place, message in enumerate(messages[:-1]) if message.role == "assistant"]
        earlier = [_earlier_turn(text, _up_to(conversation, place + 1), tokenizer, end) for place in turns]
        start = len(answer_context(conversation, tokenizer))
        last = start, _end_of_turn(text, start, end)
        spans = tuple(span for span in (*earlier, last) if span is not None)
    if not spans:
        raise DataError("the chat template marks nothing as the assistant's; mend its {% generation %} blocks")
    return Templated(text, spans, max(0, sum(message.role == "assistant" for message in messages) - len(spans)))


def _check_all_is_written(conversation: Conversation, tokenizer: PreTrainedTokenizerBase, whole: str) -> None:
    """Raises `DataError` for tools, or calls of them, that the template passes over: the model would never see them."""
    plain = tuple(replace(each, more={}) if "tool_calls" in each.more else each for each in conversation.messages)
    without = {"tools": replace(conversation, tools=()), "tool_calls": replace(conversation, messages=plain)}
    passed_over = [
        name
        for name, other in without.items()
        if other != conversation and render(other, tokenizer, prompted=False) == whole
    ]
    if passed_over:
        raise DataError(
            f"the conversations have {' and '.join(passed_over)}, which the tokenizer's chat template does not write; "
            "choose a model whose template does, or leave them out"
        )


def asked(prompt: str, *, as_in_training: bool) -> Conversation:
    """A user's turn to be answered: as the template asks for an answer, or as one stands in a finished conversation."""
    question = Message("user", prompt)
    return Conversation((question, Message("assistant", ANSWER)) if as_in_training else (question,))


def answer_context(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> str:
    """What stands before the last answer, which generation is given too: the turns, and what makes the model answer.

    Some templates' generation prompts hold what they do not write into a finished turn (an opened thinking). There it
    is what the finished turn has before the answer. After a user's turn it is the template's own. Raises `DataError`
    where a template writes no answer, or rewrites all for it.
    """
    if conversation.messages[-1].role != "assistant":
        return render(conversation, tokenizer, prompted=True)
    before = _up_to(conversation, -1)
    text, prompt = render(conversation, tokenizer, prompted=False), render(before, tokenizer, prompted=True)
    if text.startswith(prompt) and text[len(prompt) :].strip():
        return prompt
    answered = replace(conversation, messages=(*before.messages, Message("assistant", ANSWER)))
    finished = render(answered, tokenizer, prompted=False)
    context, written, _ = finished.rpartition(ANSWER)
    if not written or not text.startswith(context):
        raise DataError(
            "the chat template does not write what the assistant says last at a place that can be found, so there is "
            'nothing to learn; use a tokenizer whose template does, or give {"prompt", "completion"}'
        )
    return context


def prompt_is_kept(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the last answer stands after just what the template's generation prompt is."""
    prompt = render(_up_to(conversation, -1), tokenizer, prompted=True)
    return answer_context(conversation, tokenizer) == prompt


def _earlier_turn(
    text: str, conversation: Conversation, tokenizer: PreTrainedTokenizerBase, end: TurnEnd
) -> tuple[int, int] | None:
    """The last turn of a conversation in the text of a longer one; None where it is written otherwise there."""
    before = render(_up_to(conversation, -1), tokenizer, prompted=True)
    alone = render(conversation, tokenizer, prompted=False)
    place = _end_of_turn(alone, len(before), end)
    return (len(before), place) if alone.startswith(before) and text.startswith(alone[:place]) else None


def _up_to(conversation: Conversation, place: int) -> Conversation:
    """Its first turns."""
    return replace(conversation, messages=conversation.messages[:place])


def _end_of_turn(text: str, start: int, end: TurnEnd) -> int:
    """Where the last turn of a text ends: behind what ends it, or with the text."""
    place = text.rfind(end.written, start) if end.written.strip() else -1
    return place + len(end.written) if place >= 0 else len(text)
