"""`loralab chat` in a real terminal: the prompt, the keys that stop and leave, and what a model must not do to it."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loralab.cli.chat.terminal import Terminal
from tiny import write_llama

SOURCE = Path(__file__).resolve().parents[3] / "src"
PATIENCE = 60
"""Seconds without a byte after which a test has failed."""


class Seen:
    """A program's terminal, from the side of the person."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self.process, self.terminal, self.text = process, terminal, ""

    def until(self, awaited: str) -> str:
        """Read on until a text stands there; returns what came since the last call."""
        begun = len(self.text)
        while awaited not in self.text[begun:]:
            self.more()
        return self.text[begun:]

    def more(self) -> None:
        """Read what comes next."""
        assert select.select([self.terminal], [], [], PATIENCE)[0], self.text
        self.text += os.read(self.terminal, 4096).decode(errors="replace")

    def type(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def left(self) -> int:
        """Read to the end; the exit status."""
        try:
            while chunk := os.read(self.terminal, 4096):
                self.text += chunk.decode()
        except OSError:  # how Linux says that nobody is at the other side
            pass
        return self.process.wait(PATIENCE)


@contextmanager
def terminal(*arguments: object) -> Iterator[Seen]:
    """`loralab` with a terminal for all of its streams."""
    ours, theirs = pty.openpty()
    environment = os.environ | {
        "PYTHONPATH": str(SOURCE),
        "HF_HUB_OFFLINE": "1",
        "TERM": "dumb",
        "INPUTRC": "/dev/null",
    }
    command = [sys.executable, "-m", "loralab", *map(str, arguments)]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
        preexec_fn=lambda: _take_terminal(),
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Seen(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _take_terminal() -> None:
    """Make stdin the terminal that controls this session, as a shell's child has it: keys become signals."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_conversation_with_its_keys(model: Path, adapters: list[Path]) -> None:
    with terminal("chat", "--model", model, "--adapter", adapters[0], "--max-new-tokens", 4) as seen:
        seen.until("talks> ")
        seen.type("say a:\n")
        seen.until("talks> ")
        seen.type("/bas\t\n")  # the Tab key completes it
        assert "the base answers from now on" in seen.until("base> ")
        seen.type("/nothing\n")
        assert "error: unknown command /nothing" in seen.until("base> ")
        seen.type("half a line")
        seen.until("half a line")
        time.sleep(0.5)  # the line editor is at work: a key that comes while it starts is not seen
        seen.type("\x03")
        assert "Ctrl-D or /quit leaves" in seen.until("base> ")
        seen.type("\x04")
        assert seen.left() == 0


def test_ctrl_c_stops_an_answer_and_not_the_conversation(tmp_path: Path) -> None:
    long = write_llama(tmp_path, initializer_range=0.5, max_position_embeddings=200_000, eos_token_id=None)
    with terminal("chat", "--model", long, "--max-new-tokens", 90_000, "--temperature", 1) as seen:
        seen.until("base> ")
        seen.type("tell me all\n")
        seen.until("tell me all\r\n")
        seen.more()  # the answer has begun
        seen.type("\x03")
        assert "(stopped; the model sees what it wrote so far; /undo takes it back)" in seen.until("base> ")
        seen.type("/undo\n")
        assert "taken back: tell me all" in seen.until("base> ")
        seen.type("/quit\n")
        assert seen.left() == 0


def test_generate_talks_to_a_checkpoint_under_the_runs_name(model: Path, adapters: list[Path], tmp_path: Path) -> None:
    shutil.copytree(adapters[0], tmp_path / "run" / "checkpoints" / "step-00000002")
    at_two = ["--adapter", tmp_path / "run", "--checkpoint", 2]
    with terminal("generate", "--model", model, *at_two, "--max-new-tokens", 4) as seen:
        seen.until("run> ")
        seen.type("\x04")
        assert seen.left() == 0


def test_generate_without_a_prompt_talks(model: Path) -> None:
    with terminal("generate", "--model", model, "--max-new-tokens", 4) as seen:
        assert "this is `loralab chat`" in seen.until("base> ")
        seen.type("say a:\n")
        seen.until("base> ")
        seen.type("\x04")
        assert seen.left() == 0
        assert "Traceback" not in seen.text


def test_an_answer_does_not_steer_the_terminal(capsys) -> None:
    Terminal().write("a\x1b[2J\tb\nc\x07\x9b")
    assert capsys.readouterr().out == "a\\x1b[2J\tb\nc\\x07\\x9b"
