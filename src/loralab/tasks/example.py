"""What a task is made of: one example of each kind, as text or as the path of an image.

It knows nothing of tokenizers: `encoding` turns these into what a model takes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Example:
    """A prompt x and the target y to be written after it; y begins with the space that parts it from x."""

    prompt: str
    target: str
    references: tuple[str, ...] = ()
    """Every right answer, for the text metrics; empty: the target is the only one."""
    part: str = ""
    """The part of the split that it belongs to, where each part is also scored apart (WebNLG: seen, unseen)."""
    weight: float = 1.0
    """What each of its targets counts in the training loss, which is a weighted mean; 0 leaves it out of training."""

    def answers(self) -> tuple[str, ...]:
        """The references, without surrounding space; the target where there are none."""
        return self.references or (self.target.strip(),)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str
    more: Mapping[str, Any] = field(default_factory=dict)
    """What else a chat template is told of the turn: tool_calls, tool_call_id, name, reasoning_content."""

    def turn(self) -> dict[str, Any]:
        """The turn as chat templates take it."""
        return {"role": self.role, "content": self.content, **self.more}


@dataclass(frozen=True)
class Conversation:
    """Turns that end with an assistant's; all of the assistant's turns are targets."""

    messages: tuple[Message, ...]
    part: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    """The functions that the assistant may call, as JSON schemas."""
    weight: float = 1.0
    """As `Example.weight`."""

    def answers(self) -> tuple[str, ...]:
        """What the assistant said last, the text to compare a generated answer with; or the calls it made."""
        last = self.messages[-1]
        return (last.content.strip() or json.dumps(last.more.get("tool_calls", "")),)


@dataclass(frozen=True)
class Document:
    """A text alone: every one of its tokens is a target, and nothing stands before it."""

    text: str
    part: str = ""
    weight: float = 1.0
    """As `Example.weight`."""


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, of which the first is preferred."""

    chosen: Example | Conversation
    rejected: Example | Conversation
    shared: int = 0
    """Of conversations: how many turns both begin with; only what follows is a target."""
    part: str = ""
    weight: float = 1.0
    """As `Example.weight`, of the pair."""


@dataclass(frozen=True)
class LabelledExample:
    """One text or two, and the index of its class (int), its value (float), or None where it is not known."""

    text_a: str
    text_b: str | None
    label: int | float | None
    part: str = ""
    """As `Example.part` (MNLI: matched, mismatched)."""
    weight: float = 1.0
    """What it counts in the training loss, which is a weighted mean; 0 leaves it out of training."""


@dataclass(frozen=True)
class ImageExample:
    """One image file, which is read anew whenever its pixels are needed, and the index of its class."""

    path: Path
    label: int
    digest: str
    """The SHA-256 of the file's bytes: what tells whether two files hold the same image."""
    part: str = ""
    """As `Example.part`."""


AnyExample = Example | Conversation | Document | Preference | LabelledExample | ImageExample
Examples = Sequence[AnyExample]


def weight_of(example: AnyExample) -> float:
    """What the targets of an example count in the training loss; an image's class counts 1."""
    return 1.0 if isinstance(example, ImageExample) else example.weight
