"""What a task is made of: one example of each kind, as text or as the path of an image.

It knows nothing of tokenizers: `encoding` turns these into what a model takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Example:
    """A prompt x and the target y to be written after it; y begins with the space that parts it from x."""

    prompt: str
    target: str
    references: tuple[str, ...] = ()
    """Every right answer, for the text metrics; empty: the target is the only one."""
    part: str = ""
    """The part of the split that it belongs to, where each part is also scored apart (WebNLG: seen, unseen)."""

    def answers(self) -> tuple[str, ...]:
        """The references, without surrounding space; the target where there are none."""
        return self.references or (self.target.strip(),)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """Turns that end with an assistant's; all of the assistant's turns are targets."""

    messages: tuple[Message, ...]
    part: str = ""

    def answers(self) -> tuple[str, ...]:
        """What the assistant said last, the text to compare a generated answer with."""
        return (self.messages[-1].content.strip(),)


@dataclass(frozen=True)
class LabelledExample:
    """One text or two, and the index of its class (int), its value (float), or None where it is not known."""

    text_a: str
    text_b: str | None
    label: int | float | None
    part: str = ""
    """As `Example.part` (MNLI: matched, mismatched)."""


@dataclass(frozen=True)
class ImageExample:
    """One image file, which is read anew whenever its pixels are needed, and the index of its class."""

    path: Path
    label: int
    digest: str
    """The SHA-256 of the file's bytes: what tells whether two files hold the same image."""
    part: str = ""
    """As `Example.part`."""


AnyExample = Example | Conversation | LabelledExample | ImageExample
Examples = Sequence[AnyExample]
