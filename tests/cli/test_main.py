"""The program as its users meet it: as a process, with exit status, stdout and stderr."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from loralab.cli.main import _is_of_memory
from loralab.cli.streams import Lasting
from loralab.cli.table import ANALYSES, VERBS

SOURCE = Path(__file__).resolve().parents[2] / "src"


def loralab(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loralab", *arguments]
    environment = {"PYTHONPATH": str(SOURCE), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, check=False)


def test_front_page_names_every_verb() -> None:
    done = loralab("--help")
    assert done.returncode == 0
    assert all(f"\n  {verb}" in done.stdout for verb in VERBS)
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("asked", "page"),
    [
        ([], ["--help"]),
        (["help"], ["--help"]),
        (["help", "eval"], ["eval", "--help"]),
        (["analyse"], ["analyse", "--help"]),
        (["help", "analyse", "rank"], ["analyse", "rank", "--help"]),
        (["help", "train", "--help-all"], ["train", "--help-all"]),
        (["-V"], ["--version"]),
    ],
    ids=str,
)
def test_nothing_asked_shows_what_can_be_asked(asked: list[str], page: list[str]) -> None:
    done, wanted = loralab(*asked), loralab(*page)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", wanted.stdout)
    assert done.stdout.startswith(("usage: loralab", "loralab 0"))


def test_the_page_of_analyses_names_every_one() -> None:
    done = loralab("analyse", "--help")
    assert all(f"\n  {name}" in done.stdout for name in ANALYSES)
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("verb", [*VERBS, *(f"analyse {name}" for name in ANALYSES)])
def test_help_fits_in_80_columns_and_loads_nothing_heavy(verb: str) -> None:
    heavy = ("torch", "transformers", "numpy", "rich")
    script = (
        f"import sys; from loralab.cli.main import main; main([*{verb.split()!r}, '--help']);"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(SOURCE)}, check=True)
    assert done.stderr.strip() == "[]"
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\nexample:\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evla"], "unknown verb 'evla' (did you mean eval?)"),
        (["report", "out/run"], "unknown verb 'report': it is an analysis, loralab analyse report …"),
        (["eval", "--modle", "m"], "unknown flag --modle (did you mean --model?)"),
        (["eval"], "--model is needed"),
        (["analyse", "subpace"], "unknown analysis 'subpace' (did you mean subspace?)"),
        (["eval", "--config", "nowhere.toml"], "no such file: nowhere.toml"),
    ],
)
def test_wrong_input_is_an_error_without_traceback(arguments: list[str], message: str) -> None:
    done = loralab(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_early_is_no_failure() -> None:
    command = f"set -o pipefail; {sys.executable} -m loralab train --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env={"PYTHONPATH": str(SOURCE)})
    assert done.returncode == 0
    assert done.stderr == ""


def test_what_is_no_more_open_is_not_flushed() -> None:
    """Python closes a wrapper that nobody holds, which flushes it; from 3.13 on it says what goes wrong there."""
    stream = io.StringIO()
    wrapper = Lasting(stream)
    stream.close()
    wrapper.close()


@pytest.mark.parametrize(
    "said, is_of_memory",
    [
        ("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried …", True),
        ("could not create a primitive", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_what_computes_says_in_its_own_words_that_memory_is_short(said: str, is_of_memory: bool) -> None:
    assert _is_of_memory(RuntimeError(said)) is is_of_memory
