"""The state of a conversation and the commands that change it. It knows neither models nor terminals."""

from collections.abc import Callable
from dataclasses import dataclass, field

from loralab.cli.settings import near_misses
from loralab.errors import SpecError
from loralab.tasks.example import Message

COMMANDS = {
    "adapter": "/adapter NAME  let this adapter answer from now on; alone: which there are",
    "base": "/base          let the base model answer, without an adapter",
    "undo": "/undo          take back the last question and its answer",
    "reset": "/reset         forget what was said",
    "help": "/help          show this",
    "quit": "/quit          leave, as Ctrl-D does; Ctrl-C stops an answer",
}
"""What a line that begins with a slash can ask for. A line that begins with two is text that begins with one."""


@dataclass
class Dialogue:
    """What was said so far, and who answers."""

    adapters: tuple[str, ...] = ()
    who: str | None = None
    """The adapter that answers; None is the base."""
    system: str | None = None
    """What the model is told before everything."""
    turns: list[Message] = field(default_factory=list)
    left: bool = False
    """Whether the conversation is over."""

    def asked(self, text: str) -> list[Message]:
        """All turns up to a new question, which is not a part of the conversation before it is answered."""
        before = [] if self.system is None else [Message("system", self.system)]
        return [*before, *self.turns, Message("user", text)]

    def answered(self, question: str, answer: str) -> None:
        """Both become a part of what was said."""
        self.turns += [Message("user", question), Message("assistant", answer)]

    def obey(self, command: str) -> str:
        """Do what a command says; returns what to tell. Raises SpecError for one that there is not."""
        name, _, argument = command.removeprefix("/").partition(" ")
        if name not in COMMANDS:
            known = ", ".join(f"/{each}" for each in COMMANDS)
            raise SpecError(
                f"unknown command /{name}{near_misses(name, COMMANDS)}; there are {known}; // begins a text with /"
            )
        action: dict[str, Callable[[str], str]] = {
            "adapter": self._adapter,
            "base": lambda _: self._let(None),
            "undo": lambda _: self._undo(),
            "reset": lambda _: self._reset(),
            "help": lambda _: "\n".join(COMMANDS.values()),
            "quit": lambda _: self._leave(),
        }
        return action[name](argument.strip())

    def _adapter(self, name: str) -> str:
        listed = f"adapters: {', '.join(self.adapters) or 'none (--adapter brings them)'}"
        if not name:
            return f"{listed}; {self.who or 'the base'} answers"
        if name not in self.adapters:
            raise SpecError(f"no adapter is called {name!r}{near_misses(name, self.adapters)}; {listed}")
        return self._let(name)

    def _let(self, who: str | None) -> str:
        self.who = who
        goes_on = "; what was said stays (/reset forgets it)" if self.turns else ""
        return f"{who or 'the base'} answers from now on{goes_on}"

    def _undo(self) -> str:
        if not self.turns:
            return "nothing was said yet"
        gone, self.turns = self.turns[-2:], self.turns[:-2]
        return f"taken back: {gone[0].content}"

    def _reset(self) -> str:
        self.turns = []
        return "forgotten; the next line begins a new conversation"

    def _leave(self) -> str:
        self.left = True
        return ""
