"""Rows of two answers, one preferred to the other, and the `Preference` that each becomes.

{"prompt", "chosen", "rejected"} with texts; or with lists of turns, `prompt` then a text or a list as well; or without
a prompt, which is then what both answers begin with: their first turns, or their text up to the last word they share.
"""

from collections.abc import Sequence
from typing import Any

from loralab.tasks.example import Conversation, Example, Message, Preference
from loralab.tasks.own.turns import as_conversation, parse_turns
from loralab.tasks.readers.lines import Line

SIDES = ("chosen", "rejected")


def parse_preference(line: Line) -> Preference:
    """The pair. Raises `DataError` with the line for sides that are the same, blank, or of two kinds."""
    talks = [_is_talk(line.value(side)) for side in SIDES]
    if talks[0] != talks[1]:
        raise line.error("one of chosen and rejected is a text, the other a list of turns; give two of one kind")
    pair = _conversations(line) if talks[0] else _texts(line)
    if pair.chosen == pair.rejected:
        raise line.error("chosen and rejected are the same; there is nothing to prefer")
    return pair


def _is_talk(value: Any) -> bool:
    """Whether an answer is a list of turns, or (where a table holds text alone) the JSON of one."""
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith('[{"'))


def _texts(line: Line) -> Preference:
    chosen, rejected = (line.text(side) for side in SIDES)
    if "prompt" in line.content:
        prompt = line.text("prompt")
    else:
        shared = chosen[: _shared(chosen, rejected)]
        prompt = shared[: max((place + 1 for place, sign in enumerate(shared) if sign.isspace()), default=0)]
        if not prompt.strip():
            raise line.error("there is no prompt, and chosen and rejected do not begin with the same words; add prompt")
        chosen, rejected = (text[len(prompt) :] for text in (chosen, rejected))
    return Preference(_written(line, prompt, "chosen", chosen), _written(line, prompt, "rejected", rejected))


def _written(line: Line, prompt: str, side: str, answer: str) -> Example:
    if not answer.strip():
        raise line.error(f"{side} is empty beside the other; both must be answers")
    parted = not prompt or prompt[-1].isspace() or answer[0].isspace()
    return Example(prompt, answer if parted else " " + answer)


def _conversations(line: Line) -> Preference:
    before, (chosen, rejected) = _asked(line), [parse_turns(line, side) for side in SIDES]
    if before is not None and chosen[0].role == "assistant":
        chosen, rejected = before + chosen, before + rejected
    shared = _shared(chosen, rejected)
    if shared == 0 or "user" not in [each.role for each in chosen[:shared]]:
        raise line.error("chosen and rejected do not begin with the same turns; they must answer one prompt")
    if any(each[shared:] and each[shared].role != "assistant" for each in (chosen, rejected)):
        raise line.error(f"chosen and rejected part at turn {shared + 1}, which is not the assistant's")
    if chosen != rejected and not (chosen[shared:] and rejected[shared:]):
        raise line.error("one of chosen and rejected is the beginning of the other; both must be answers")
    return Preference(as_conversation(line, chosen), as_conversation(line, rejected), shared)


def _shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many elements both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))


def _asked(line: Line) -> list[Message] | None:
    """The turns of the prompt, where there is one."""
    if "prompt" not in line.content:
        return None
    return parse_turns(line, "prompt") if _is_talk(line.content["prompt"]) else [Message("user", line.text("prompt"))]


def input_of_pair(pair: Preference) -> str:
    """What both answer, as one string to hash."""
    if isinstance(pair.chosen, Conversation):
        return "\0".join(message.content for message in pair.chosen.messages[: pair.shared])
    return pair.chosen.prompt
