"""A conversation from its first line to its last: lines in, commands obeyed, questions answered."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from loralab.cli.chat.dialogue import Dialogue
from loralab.cli.opening import say
from loralab.errors import LoralabError
from loralab.tasks.example import Message

if TYPE_CHECKING:
    from loralab.generation.speaker import Spoken


class Speaker(Protocol):
    """Whoever answers: a model here, or one that is served."""

    def fitting(self, turns: Sequence[Message], who: str | None) -> Sequence[Message]:
        """The turns that fit, the newest; raises a LoralabError where not even the last does."""

    def speak(self, turns: Sequence[Message], who: str | None, write: Callable[[str], None]) -> "Spoken":
        """The next turn; `write` is given its pieces as they come."""


class Stage(Protocol):
    """Where the lines come from and the answers go."""

    interactive: bool

    def lines(self, dialogue: Dialogue) -> Iterator[str]: ...

    def write(self, piece: str) -> None: ...


def converse(speaker: Speaker, dialogue: Dialogue, stage: Stage) -> None:
    """Until the lines end or /quit. What goes wrong is said in a terminal, and raised elsewhere."""
    for line in stage.lines(dialogue):
        try:
            _take(line, speaker, dialogue, stage)
        except LoralabError as error:
            if not stage.interactive:
                raise
            say([f"error: {error}"])
        if dialogue.left:
            return


def _take(line: str, speaker: Speaker, dialogue: Dialogue, stage: Stage) -> None:
    """A line: a command, a question, or nothing."""
    if line.startswith("/") and not line.startswith("//"):
        say(filter(None, [dialogue.obey(line.strip())]))
    elif line.strip():
        _answer(line[1:] if line.startswith("//") else line, speaker, dialogue, stage)


def _answer(question: str, speaker: Speaker, dialogue: Dialogue, stage: Stage) -> None:
    asked = dialogue.asked(question)
    turns = speaker.fitting(asked, dialogue.who)
    if len(turns) < len(asked):
        say([f"({len(asked) - len(turns)} older turns do not fit into the model's context: it no longer sees them)"])
    pieces: list[str] = []

    def write(piece: str) -> None:
        pieces.append(piece)
        stage.write(piece)

    try:
        spoken = speaker.speak(turns, dialogue.who, write)
    except KeyboardInterrupt:
        if not stage.interactive:
            raise
        stage.write("\n")
        say(["(stopped; the model sees what it wrote so far; /undo takes it back)"])
        dialogue.answered(question, "".join(pieces))
        return
    stage.write("\n")
    dialogue.answered(question, spoken.text)
    if not spoken.text.strip():
        say(["(no answer: the model ended its turn at once)"])
    elif spoken.cut:
        say(["(ended at --max-new-tokens)"])
