from pathlib import Path
from typing import Any

import pytest

from loralab.errors import DataError
from loralab.tasks.example import Conversation, Document, Example, Message
from loralab.tasks.own.shapes import ignored_keys, parse_lines, shape_of
from loralab.tasks.readers.lines import Line


def lines(*contents: dict[str, Any]) -> list[Line]:
    return [Line(Path("d.jsonl"), number, content) for number, content in enumerate(contents, start=1)]


def parse(*contents: dict[str, Any]) -> list[Any]:
    found = lines(*contents)
    return parse_lines(found, shape_of(found[0]))


@pytest.mark.parametrize(
    "prompt, completion, target", [("a:", "b", " b"), ("a: ", "b", "b"), ("a:", "\nb", "\nb"), ("", "b", "b")]
)
def test_a_space_parts_prompt_and_completion(prompt: str, completion: str, target: str) -> None:
    assert parse({"prompt": prompt, "completion": completion}) == [Example(prompt, target)]


def test_instructions_with_and_without_an_input() -> None:
    (one, two, three) = parse(
        {"instruction": "i", "input": "x", "output": "o"},
        {"instruction": "i", "output": ""},
        {"instruction": "i", "input": "", "output": "o"},
    )
    assert one == Example("### Instruction:\ni\n\n### Input:\nx\n\n### Response:\n", "o")
    assert (two.prompt, two.target) == (three.prompt, "")


def test_messages() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert parse({"messages": turns}) == [Conversation((Message("user", "q"), Message("assistant", "a")))]


def test_labelled_texts() -> None:
    (one,) = parse({"text": "a", "label": 1})
    (two,) = parse({"label": 1, "text_b": "b", "text_a": "a"})
    assert (one.text_a, one.text_b, two.text_a, two.text_b) == ("a", None, "a", "b")


@pytest.mark.parametrize(
    "content, message",
    [
        ({"prompt": "a"}, r"keys are prompt; a line must have those of\n  prompt, completion  "),
        ({"prompt": "a", "completion": "b", "hue": 1}, "keys are completion, hue, prompt; 'hue' is not known"),
        ({}, "keys are none"),
        ({"instruction": "a", "output": 1}, "output is a int"),
        ({"instruction": "a", "input": None, "output": "b"}, "input is null"),
        ({"prompt": 1, "completion": "b"}, "prompt is a int"),
        ({"prompt": "a", "completion": " "}, "completion is empty"),
        ({"text": None, "label": 1}, "text is null"),
        ({"messages": []}, "must be a list"),
        ({"messages": [{"role": "user"}]}, "turn 1 must be an object"),
    ],
)
def test_bad_lines(content: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"d\.jsonl, line 1: .*" + message):
        parse(content)


@pytest.mark.parametrize(
    "roles, message",
    [
        ("user", "must end with an assistant turn"),
        ("assistant", "before any user turn"),
        ("user system assistant", "system turn may only come first"),
        ("user robot assistant", "turn 2 has the role 'robot'"),
    ],
)
def test_bad_conversations(roles: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse({"messages": [{"role": role, "content": "x"} for role in roles.split()]})


def test_all_lines_have_the_first_lines_shape() -> None:
    with pytest.raises(DataError, match="line 2: its keys are label, text, those of the first line"):
        parse({"prompt": "a", "completion": "b"}, {"text": "a", "label": 1})


def test_a_text_alone_is_all_target() -> None:
    assert parse({"text": "a b", "url": "u"}) == [Document("a b")]
    with pytest.raises(DataError, match="line 1: the text is empty"):
        parse({"text": " \n"})


@pytest.mark.parametrize(
    "content",
    [
        {"instruction": "i", "output": "o", "id": 1, "source": "x", "text": "all of it"},
        {"instruction": "i", "context": "", "response": "o", "category": "qa"},
        {"instruction": "i", "input": "", "output": "o", "Unnamed: 0": 0},
    ],
)
def test_known_keys_beside_alpacas_are_ignored_and_said(content: dict[str, Any]) -> None:
    found = lines(content, content)
    (note,) = ignored_keys(found, shape_of(found[0]))
    assert parse(content) == [Example("### Instruction:\ni\n\n### Response:\n", "o")]
    for key in content.keys() - {"instruction", "input", "output", "context", "response"}:
        assert f"{key} (2)" in note


def test_unknown_keys_are_named() -> None:
    with pytest.raises(DataError, match=r"line 1: .*'history', 'hue' is not known beside instruction, output"):
        parse({"instruction": "i", "output": "o", "hue": 1, "history": [], "id": 1})
    with pytest.raises(DataError, match="line 2: its keys are hue, instruction, output, those of the first line"):
        parse({"instruction": "i", "output": "o"}, {"instruction": "i", "output": "o", "hue": 1})


@pytest.mark.parametrize(
    "content",
    [
        {"prompt": "a", "completion": "b"},
        {"instruction": "a", "output": "b"},
        {"text": "a"},
        {"text": "a", "label": 1},
        {"text_a": "a", "text_b": "b", "label": 1},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    ],
)
def test_every_shape_may_have_a_weight(content: dict[str, Any]) -> None:
    assert [row.weight for row in parse(content, content | {"weight": 0}, content | {"weight": 2.5})] == [1.0, 0.0, 2.5]
    for wrong in (-1, float("nan"), float("inf"), "1", True, None):
        with pytest.raises(DataError, match="line 2: the weight is"):
            parse(content, content | {"weight": wrong})


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["question", "answer"], "rename 'question' to 'prompt' and 'answer' to 'completion'"),
        (["Review", "Class"], "rename 'Review' to 'text' and 'Class' to 'label'"),
        (["prompt;completion"], "one column: the file is separated by ';'"),
        (["colour", "size"], "are colour, size; a line must"),
    ],
)
def test_other_names_of_columns_are_understood_but_not_guessed(keys: list[str], said: str) -> None:
    with pytest.raises(DataError, match="its columns") as raised:
        shape_of(Line(Path("d.csv"), 2, dict.fromkeys(keys, "x")))
    assert said in str(raised.value)
