"""Where a conversation takes place: a terminal with history and completion, or lines that are piped in."""

import contextlib
import sys
from collections.abc import Iterable, Iterator

from loralab.cli.chat.dialogue import COMMANDS, Dialogue
from loralab.cli.opening import say
from loralab.tasks.readers.unpacked import MARK, decode_utf8

HIDDEN = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""What would steer a terminal, and how it is shown instead."""


class Piped:
    """Lines from a pipe or a file: each is a turn; only the answers are written."""

    interactive = False

    def lines(self, dialogue: Dialogue) -> Iterator[str]:
        """Every line, without its end. Raises DataError for bytes that are not UTF-8."""
        for number, raw in enumerate(_raw_lines()):
            yield decode_utf8("stdin", raw.removeprefix(MARK) if number == 0 else raw).rstrip("\r\n")

    def write(self, piece: str) -> None:
        """A piece of an answer."""
        sys.stdout.write(piece)
        sys.stdout.flush()


class Terminal:
    """A person: a prompt that names who answers, with the keys and the history of readline."""

    interactive = True

    def lines(self, dialogue: Dialogue) -> Iterator[str]:
        """Every line until Ctrl-D; Ctrl-C leaves the line."""
        _complete(dialogue)
        while True:
            try:
                yield input(f"{dialogue.who or 'base'}> ")
            except KeyboardInterrupt:
                say(["", "Ctrl-D or /quit leaves"])
            except EOFError:
                print()
                return

    def write(self, piece: str) -> None:
        """A piece of an answer, at once, without what would steer the terminal."""
        sys.stdout.write(piece.translate(HIDDEN))
        sys.stdout.flush()


def here() -> Terminal | Piped:
    """The one that stdin is."""
    return Terminal() if sys.stdin.isatty() else Piped()


def _raw_lines() -> Iterable[bytes]:
    if hasattr(sys.stdin, "buffer"):
        return sys.stdin.buffer
    return (line.encode("utf-8", "surrogatepass") for line in sys.stdin)


def _complete(dialogue: Dialogue) -> None:
    """Let the Tab key complete commands and names of adapters, where Python has readline (not on Windows)."""
    with contextlib.suppress(ImportError):
        import readline

        words = [*(f"/{name}" for name in COMMANDS), *(f"/adapter {name}" for name in dialogue.adapters)]

        def complete(text: str, state: int) -> str | None:
            fitting = [word for word in words if text and word.startswith(text)]
            return fitting[state] if state < len(fitting) else None

        readline.set_completer(complete)
        readline.set_completer_delims("")
        readline.parse_and_bind("tab: complete")
