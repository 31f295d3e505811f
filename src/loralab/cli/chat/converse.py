"""A conversation from its first line to its last: lines in, commands obeyed, questions answered."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from loralab.cli.chat.dialogue import Dialogue
from loralab.cli.opening import say
from loralab.errors import LoralabError
from loralab.tasks.example import Message


class Spoken(Protocol):
    """What was answered."""

    @property
    def text(self) -> str: ...

    @property
    def cut(self) -> bool:
        """Whether it had to end before its end."""


class Speaker(Protocol):
    """Whoever answers: a model here, or one that is served."""

    def fitting(self, turns: Sequence[Message], who: str | None) -> Sequence[Message]:
        """The turns that fit, the newest; raises a LoralabError where not even the last does."""

    def speak(self, turns: Sequence[Message], who: str | None, write: Callable[[str], None]) -> Spoken:
        """The next turn; `write` is given its pieces as they come."""


class Place(Protocol):
    """Where the lines come from and the answers go."""

    interactive: bool

    def lines(self, dialogue: Dialogue) -> Iterator[str]: ...

    def write(self, piece: str) -> None: ...


def converse(speaker: Speaker, dialogue: Dialogue, place: Place) -> None:
    """Until the lines end or /quit. What goes wrong is said in a terminal, and raised elsewhere."""
    for line in place.lines(dialogue):
        try:
            _take(line, speaker, dialogue, place)
        except LoralabError as error:
            if not place.interactive:
                raise
            say([f"error: {error}"])
        if dialogue.left:
            return


def _take(line: str, speaker: Speaker, dialogue: Dialogue, place: Place) -> None:
    """A line: a command, a question, or nothing."""
    if line.startswith("/") and not line.startswith("//"):
        say(filter(None, [dialogue.obey(line.strip())]))
    elif line.strip():
        _answer(line[1:] if line.startswith("//") else line, speaker, dialogue, place)


def _answer(question: str, speaker: Speaker, dialogue: Dialogue, place: Place) -> None:
    asked = dialogue.asked(question)
    turns = speaker.fitting(asked, dialogue.who)
    if len(turns) < len(asked):
        say([f"({len(asked) - len(turns)} older turns do not fit into the model's context: it no longer sees them)"])
    pieces: list[str] = []

    def write(piece: str) -> None:
        pieces.append(piece)
        place.write(piece)

    try:
        spoken = speaker.speak(turns, dialogue.who, write)
    except KeyboardInterrupt:
        if not place.interactive:
            raise
        place.write("\n")
        say(["(stopped; the model sees what it wrote so far; /undo takes it back)"])
        dialogue.answered(question, "".join(pieces))
        return
    place.write("\n")
    dialogue.answered(question, spoken.text)
    if not spoken.text.strip():
        say(["(no answer: the model ended its turn at once)"])
    elif spoken.cut:
        say(["(ended at --max-new-tokens)"])
