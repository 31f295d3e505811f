"""The turns of a conversation as people write them, and the `Conversation` that they become.

{"messages": [{"role", "content"}]} (OpenAI, TRL), {"conversations": [{"from", "value"}]} (ShareGPT, with the calls of
functions as turns of their own), and either's turns under the other's key. `tools` stands beside them, and in
ShareGPT's form `system`. Where a table holds text alone, lists are JSON in a cell.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from loralab.tasks.example import Conversation, Message
from loralab.tasks.readers.lines import Line

ROLES = (
    {"system": "system"}
    | dict.fromkeys(("user", "human"), "user")
    | dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "bot", "model"), "assistant")
    | dict.fromkeys(("tool", "function", "observation", "function_response"), "tool")
    | {"function_call": "assistant"}
)
"""Who speaks, as the formats call it -> the role as chat templates call it."""

CALL = "function_call"
"""ShareGPT's turn that is the call of a function, as JSON."""

MORE = ("tool_calls", "tool_call_id", "name", "reasoning_content")
"""Keys of a turn beside role and content that a chat template is told of."""


def parse_messages(line: Line) -> Conversation:
    """A conversation: perhaps a system turn, then a user's, in the end an assistant's; with tools between them."""
    return as_conversation(line, parse_turns(line, "messages"))


def parse_sharegpt(line: Line) -> Conversation:
    """A conversation under ShareGPT's names; a system turn may stand beside the turns."""
    turns = parse_turns(line, "conversations")
    if line.content.get("system"):
        turns = [Message("system", line.text("system")), *turns]
    return as_conversation(line, turns)


def as_conversation(line: Line, messages: Sequence[Message]) -> Conversation:
    """The turns, with the tools beside them. Raises `DataError` with the line for turns that make none."""
    tools, roles = _tools(line), [message.role for message in messages]
    if "system" in roles[1:]:
        raise line.error("a system turn may only come first")
    if roles[-1] != "assistant":
        raise line.error(f"the last turn is the {roles[-1]}'s; a conversation must end with an assistant turn to learn")
    if "user" not in roles[: roles.index("assistant")]:
        raise line.error("an assistant turn comes before any user turn; begin with the user's")
    return Conversation(tuple(messages), tools=tools)


def parse_turns(line: Line, key: str) -> list[Message]:
    """The turns under a key, at least one. Raises `DataError` with the line for what is none."""
    turns = _unpacked(line, key)
    if not isinstance(turns, list) or not turns:
        raise line.error(f"{key} must be a list of turns")
    return [_message(line, number, turn) for number, turn in enumerate(turns, start=1)]


def _tools(line: Line) -> tuple[Mapping[str, Any], ...]:
    tools = _unpacked(line, "tools") if line.content.get("tools") else []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise line.error(f"tools is {tools!r:.80}; it must be a list of JSON schemas of functions")
    return tuple(tools)


def _unpacked(line: Line, key: str) -> Any:
    """What stands under a key, or what the JSON says that stands there as text."""
    value = line.content[key]
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise line.error(f"{key} is text and not JSON ({error}): {value[:60]!r}; give a list") from error


def _message(line: Line, number: int, turn: Any) -> Message:
    turn = {key: value for key, value in turn.items() if value is not None} if isinstance(turn, dict) else {}
    who, said = ("from", "value") if "from" in turn else ("role", "content")
    more = {key: turn[key] for key in MORE if key in turn}
    if who not in turn or (said not in turn and "tool_calls" not in more):
        raise line.error(f"turn {number} must be an object with role and content (or from and value)")
    if strange := turn.keys() - {who, said, *MORE}:
        raise line.error(f"turn {number} has the keys {', '.join(sorted(strange))}, which have no meaning here")
    role = turn[who]
    if not isinstance(role, str) or role not in ROLES:
        raise line.error(f"turn {number} has the role {role!r:.60}; choose {', '.join(ROLES)}")
    content = _content(line, number, turn.get(said, ""))
    if role == CALL:
        return Message("assistant", "", {"tool_calls": _calls(line, number, content)})
    if "tool_calls" in more:
        more["tool_calls"] = _openai_calls(line, number, more["tool_calls"])
    if ROLES[role] == "assistant" and not content.strip() and not more.get("tool_calls"):
        raise line.error(f"turn {number} is an empty assistant turn; there is nothing to learn from it")
    return Message(ROLES[role], content, more)


def _content(line: Line, number: int, content: Any) -> str:
    """A text; or a list of parts that are all texts, joined."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        raise line.error(f"the content of turn {number} is a {type(content).__name__}; it must be a string")
    return "".join(map(str, texts))


def _calls(line: Line, number: int, content: str) -> list[dict[str, Any]]:
    """The calls of a ShareGPT turn: {"name", "arguments"}, or a list of these."""
    try:
        calls = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise line.error(f"turn {number} is a {CALL} and not JSON ({error}): {content[:60]!r}") from error
    return [_call(line, number, each) for each in (calls if isinstance(calls, list) else [calls])]


def _openai_calls(line: Line, number: int, calls: Any) -> list[dict[str, Any]]:
    """Calls as {"type": "function", "function": {"name", "arguments"}}, the arguments as an object."""
    if not isinstance(calls, list):
        raise line.error(f"the tool_calls of turn {number} are a {type(calls).__name__}; they must be a list")
    known = [each if isinstance(each, dict) else {} for each in calls]
    return [
        {**{key: each[key] for key in ("id",) if key in each}, **_call(line, number, each.get("function", each))}
        for each in known
    ]


def _call(line: Line, number: int, call: Any) -> dict[str, Any]:
    arguments = call.get("arguments") if isinstance(call, dict) else None
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError) as error:
        raise line.error(f"the arguments of a call in turn {number} are not JSON ({error})") from error
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not isinstance(arguments, dict):
        raise line.error(f"a call in turn {number} is {call!r:.80}; it must be an object with name and arguments")
    return {"type": "function", "function": {"name": call["name"], "arguments": arguments}}
