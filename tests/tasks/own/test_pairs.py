"""Rows of two answers: the shapes that people have, and what is none."""

from pathlib import Path
from typing import Any

import pytest

from loralab.errors import DataError
from loralab.tasks.example import Conversation, Example, Message, Preference
from loralab.tasks.own.inputs import input_of
from loralab.tasks.own.shapes import parse_lines, shape_of
from loralab.tasks.readers.lines import Line

ASKED = {"role": "user", "content": "2+2?"}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def parse(content: dict[str, Any]) -> Any:
    line = Line(Path("d.jsonl"), 7, content)
    return parse_lines([line], shape_of(line))[0]


def talk(*texts: str) -> Conversation:
    roles = ("user", "assistant", "user", "assistant")
    return Conversation(tuple(Message(role, text) for role, text in zip(roles, texts, strict=False)))


def test_texts_behind_a_prompt() -> None:
    pair = Preference(Example("Q:", " a"), Example("Q:", "\nb"))
    assert parse({"prompt": "Q:", "chosen": "a", "rejected": "\nb"}) == pair


def test_texts_that_begin_alike_have_that_as_their_prompt() -> None:
    pair = parse({"chosen": "Human: hi\n\nAssistant: hello", "rejected": "Human: hi\n\nAssistant: help"})
    assert pair == Preference(Example("Human: hi\n\nAssistant: ", "hello"), Example("Human: hi\n\nAssistant: ", "help"))


@pytest.mark.parametrize(
    "content",
    [
        {"prompt": [ASKED], "chosen": [said("4")], "rejected": [said("5")]},
        {"prompt": "2+2?", "chosen": [said("4")], "rejected": [said("5")]},
        {"chosen": [ASKED, said("4")], "rejected": [ASKED, said("5")]},
        {"prompt": "2+2?", "chosen": [ASKED, said("4")], "rejected": [ASKED, said("5")], "score_chosen": 9.5},
    ],
)
def test_conversations_in_every_form_are_one_pair(content: dict[str, Any]) -> None:
    pair = parse(content)
    assert pair == Preference(talk("2+2?", "4"), talk("2+2?", "5"), shared=1)
    assert input_of(pair) == "2+2?"


def test_earlier_turns_are_shared() -> None:
    before = [ASKED, said("4"), {"role": "user", "content": "sure?"}]
    pair = parse({"chosen": [*before, said("yes")], "rejected": [*before, said("no")]})
    assert pair.shared == 3


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"prompt": "Q", "chosen": "a", "rejected": "a"}, "are the same"),
        ({"prompt": "Q", "chosen": " ", "rejected": "a"}, "chosen is empty"),
        ({"prompt": "Q", "chosen": "a", "rejected": [said("b")]}, "a text, the other a list of turns"),
        ({"chosen": "one", "rejected": "two"}, "do not begin with the same words; add prompt"),
        ({"chosen": [said("a")], "rejected": [said("b")]}, "do not begin with the same turns"),
        ({"chosen": [ASKED, said("a")], "rejected": [ASKED, ASKED]}, "part at turn 2, which is not the assistant's"),
        ({"prompt": "Q", "chosen": 1, "rejected": "b"}, "chosen is a int"),
        ({"prompt": "Q", "chosen": "a"}, "rejected|completion"),
        ({"prompt": "Q", "chosen": "a", "rejected": "b", "hue": 1}, "'hue' is not known"),
    ],
)
def test_what_is_no_pair_is_an_error_with_its_line(content: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=r"d\.jsonl, line 7: ") as raised:
        parse(content)
    assert raised.match(problem)
