"""The shapes of a user's JSON object, and the example that each becomes. It knows nothing of files.

{"prompt", "completion"}, {"instruction", "output"} with or without "input", {"messages"}: text to be written;
{"text", "label"}, {"text_a", "text_b", "label"}: a class or a value to be predicted. A label here is as it stands
in the file; `json_labels` makes it an index.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from loralab.tasks.example import AnyExample, Conversation, Example, Message
from loralab.tasks.instructions import instruction_prompt
from loralab.tasks.json_lines import Line

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class RawLabelled:
    """One text or two, with the label as the file gives it."""

    line: Line
    text_a: str
    text_b: str | None
    label: Any


def parse_completion(line: Line) -> Example:
    """Prompt and completion as they stand; a space parts them where neither brings one."""
    prompt, completion = line.text("prompt"), line.text("completion")
    if not completion.strip():
        raise line.error("the completion is empty; there is nothing to learn from it")
    parted = not prompt or prompt[-1].isspace() or completion[0].isspace()
    return Example(prompt, completion if parted else " " + completion)


def parse_instruction(line: Line) -> Example:
    """An instruction with its output, which may be empty: then the answer is to say nothing, as in Alpaca's data."""
    given = line.text("input") if "input" in line.content else ""
    return Example(instruction_prompt(line.text("instruction"), given), line.text("output"))


def parse_text(line: Line) -> RawLabelled:
    return RawLabelled(line, line.text("text"), None, line.content["label"])


def parse_pair(line: Line) -> RawLabelled:
    return RawLabelled(line, line.text("text_a"), line.text("text_b"), line.content["label"])


def parse_messages(line: Line) -> Conversation:
    """A conversation: perhaps a system turn, then a user's, in the end an assistant's."""
    turns = line.content["messages"]
    if not isinstance(turns, list) or not turns:
        raise line.error("messages must be a list of turns")
    messages = tuple(_message(line, number, turn) for number, turn in enumerate(turns, start=1))
    roles = [message.role for message in messages]
    if "system" in roles[1:]:
        raise line.error("a system turn may only come first")
    if roles[-1] != "assistant":
        raise line.error(f"the last turn is the {roles[-1]}'s; a conversation must end with an assistant turn to learn")
    if "user" not in roles[: roles.index("assistant")]:
        raise line.error("an assistant turn comes before any user turn; begin with the user's")
    return Conversation(messages)


SHAPES: dict[frozenset[str], Callable[[Line], AnyExample | RawLabelled]] = {
    frozenset({"prompt", "completion"}): parse_completion,
    frozenset({"instruction", "output"}): parse_instruction,
    frozenset({"instruction", "input", "output"}): parse_instruction,
    frozenset({"text", "label"}): parse_text,
    frozenset({"text_a", "text_b", "label"}): parse_pair,
    frozenset({"messages"}): parse_messages,
}
"""The exact keys of a line -> its parser."""


def parse_lines(lines: Sequence[Line], shape: frozenset[str]) -> list[AnyExample | RawLabelled]:
    """Every line as an example of the shape with these keys; an instruction's input may come and go.

    Raises `DataError` with the line's number where the keys are another shape's or no shape's, or a value has
    the wrong type.
    """
    parse = SHAPES[shape]
    return [parse(_agreeing(line, shape)) for line in lines]


def shape_of(line: Line) -> frozenset[str]:
    """The keys of a line. Raises `DataError` where they are no shape's."""
    found = frozenset(line.content)
    if found not in SHAPES:
        known = " or ".join("{" + _keys(keys) + "}" for keys in SHAPES)
        raise line.error(f"its keys are {_keys(found)}; a line must have the keys {known}, and no others")
    return found


def _agreeing(line: Line, shape: frozenset[str]) -> Line:
    found = frozenset(line.content)
    if SHAPES.get(found) is not SHAPES[shape]:
        raise line.error(
            f"its keys are {_keys(found)}, those of the first line {_keys(shape)}; all lines must have the same shape"
        )
    return line


def _message(line: Line, number: int, turn: Any) -> Message:
    if not isinstance(turn, dict) or set(turn) != {"role", "content"}:
        raise line.error(f"turn {number} must be an object with role and content, found {turn!r:.80}")
    role, content = turn["role"], turn["content"]
    if role not in ROLES:
        raise line.error(f"turn {number} has the role {role!r}; choose {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise line.error(f"the content of turn {number} is a {type(content).__name__}; it must be a string")
    if role == "assistant" and not content.strip():
        raise line.error(f"turn {number} is an empty assistant turn; there is nothing to learn from it")
    return Message(role, content)


def _keys(keys: frozenset[str]) -> str:
    return ", ".join(sorted(keys)) or "none"
