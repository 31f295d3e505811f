"""Conversations as people write them: OpenAI's form, ShareGPT's, functions that are called."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from loralab.errors import DataError
from loralab.tasks.encoding.chat import templated
from loralab.tasks.encoding.turn_end import turn_end
from loralab.tasks.example import Conversation, Message
from loralab.tasks.own.shapes import parse_lines, shape_of
from loralab.tasks.readers.lines import Line

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def parse(content: dict[str, Any]) -> Conversation:
    line = Line(Path("d.jsonl"), 1, content)
    (found,) = parse_lines([line], shape_of(line))
    assert isinstance(found, Conversation)
    return found


def sharegpt(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": who, "value": said} for who, said in turns]


PLAIN = Conversation((Message("user", "q"), Message("assistant", "a")))


@pytest.mark.parametrize(
    "content",
    [
        {"conversations": sharegpt(("human", "q"), ("gpt", "a"))},
        {"conversations": sharegpt(("user", "q"), ("assistant", "a")), "id": "x", "source": "y"},
        {"conversations": json.dumps(sharegpt(("human", "q"), ("chatgpt", "a")))},
        {"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"messages": sharegpt(("human", "q"), ("gpt", "a")), "prompt": "q", "prompt_id": "x"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"role": "model", "content": "a"}]},
        {"messages": [{"role": "user", "content": "q", "name": None}, {"role": "assistant", "content": "a"}]},
    ],
)
def test_every_form_is_the_same_conversation(content: dict[str, Any]) -> None:
    assert parse(content) == PLAIN


def test_a_system_turn_among_them_or_beside_them() -> None:
    beside = parse({"conversations": sharegpt(("human", "q"), ("gpt", "a")), "system": "s"})
    among = parse({"conversations": sharegpt(("system", "s"), ("human", "q"), ("gpt", "a"))})
    assert beside == among
    assert among.messages[0] == Message("system", "s")


def test_calls_of_functions_in_either_form() -> None:
    arguments = {"name": "add", "arguments": {"a": 1}}
    theirs = sharegpt(("human", "q"), ("function_call", json.dumps(arguments)), ("observation", "2"), ("gpt", "a"))
    ours = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "a"},
    ]
    one = parse({"conversations": theirs, "tools": json.dumps(TOOLS)})
    assert one == parse({"messages": ours, "tools": TOOLS})
    assert one.tools == tuple(TOOLS)
    assert one.messages[1] == Message("assistant", "", {"tool_calls": [CALL]})


@pytest.mark.parametrize(
    "content, message",
    [
        ({"conversations": sharegpt(("human", "q"), ("parrot", "a"))}, "turn 2 has the role 'parrot'"),
        ({"conversations": sharegpt(("human", "q"))}, "must end with an assistant turn"),
        ({"conversations": sharegpt(("human", "q"), ("function_call", "add(1)"))}, "turn 2 is a function_call and not"),
        ({"conversations": "human: q"}, "conversations is text and not JSON"),
        ({"messages": [{"role": "user", "content": "q", "weight": 0}]}, "turn 1 has the keys weight"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "content of turn 1 is a list"),
        ({"messages": [{"role": ["user"], "content": "q"}]}, r"turn 1 has the role \['user'\]"),
        ({"messages": ["q"]}, "turn 1 must be an object with role and content"),
        ({"messages": [{"role": "assistant", "tool_calls": [1]}]}, "a call in turn 1 is"),
        ({"messages": [{"role": "assistant", "tool_calls": 1}]}, "the tool_calls of turn 1 are a int"),
        ({"messages": [], "tools": [1]}, "messages must be a list"),
        ({"messages": [{"role": "user", "content": "q"}], "tools": [1]}, r"tools is \[1\]"),
    ],
)
def test_what_is_wrong_is_said_with_its_turn(content: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"d\.jsonl, line 1: .*" + message):
        parse(content)


def test_the_template_is_told_of_tools_or_the_conversation_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    called = Message("assistant", "", {"tool_calls": [CALL]})
    turns = (Message("user", "q"), called, Message("tool", "2"), Message("assistant", "a"))
    with pytest.raises(
        DataError, match="have tools and tool_calls, which the tokenizer's chat template does not write"
    ):
        templated(Conversation(turns, tools=tuple(TOOLS)), tokenizer, turn_end(tokenizer))
    tokenizer.chat_template = (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
        "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    said = templated(Conversation(turns, tools=tuple(TOOLS)), tokenizer, turn_end(tokenizer)).text
    assert '"parameters"' in said
    assert '"arguments"' in said
