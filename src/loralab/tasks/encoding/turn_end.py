"""What a tokenizer's chat template ends an assistant's turn with, found by letting it write one.

Names of tokens tell nothing: the end may be another token than the end of text, a piece of text of several tokens, or
nothing but whoever speaks next.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from loralab.errors import DataError
from loralab.tasks.encoding.template import render
from loralab.tasks.encoding.tokens import plain_ids
from loralab.tasks.example import Conversation, Message

QUESTION, ANSWER, NEXT = "\ue000question\ue000", "\ue001answer\ue001", "\ue002next\ue002"
"""Texts that no template writes by itself: of Unicode's private area."""


@dataclass(frozen=True)
class TurnEnd:
    """The end of an assistant's turn."""

    written: str
    """What the template writes after an answer, up to and including the end: a part of what is learned."""
    token: int | None
    """The one token that is the end."""
    text: str | None
    """The text that is the end, where no single token is; with neither, an answer has no end that could be told."""


def turn_end(tokenizer: PreTrainedTokenizerBase) -> TurnEnd:
    """The end of the last turn of a conversation. Raises `DataError` where there is no template."""
    asked = Conversation((Message("user", QUESTION), Message("assistant", ANSWER)))
    tail = render(asked, tokenizer, prompted=False).rpartition(ANSWER)[2]
    token = _first_added(tail, tokenizer)
    if token is not None:
        name = str(tokenizer.convert_ids_to_tokens(token))
        return TurnEnd(tail[: tail.index(name) + len(name)] if name in tail else tail, token, None)
    if tail.strip():
        return TurnEnd(tail.rstrip(), None, tail.strip())
    return TurnEnd(tail, None, _what_follows(asked, tokenizer))


def _first_added(text: str, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The first token of a text that is not a piece of a word, but was added to the vocabulary for its own sake.

    Some tokenizers have whole runs of spaces among these: they end nothing.
    """
    ids = plain_ids([text], tokenizer)[0] if text else []
    added = {place: str(token) for place, token in tokenizer.added_tokens_decoder.items() if str(token).strip()}
    return next((token for token in ids if token in added or token in tokenizer.all_special_ids), None)


def _what_follows(asked: Conversation, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What begins the next turn, for a template that only writes who speaks."""
    try:
        going_on = render(Conversation((*asked.messages, Message("user", NEXT))), tokenizer, prompted=False)
    except DataError:
        return None
    follows = going_on.rpartition(ANSWER)[2].partition(NEXT)[0].rstrip()
    return follows if follows.strip() else None
