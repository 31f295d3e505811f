"""What the entry point does with a verb: its answer, its errors, its interruptions. The verb is one of our own."""

import errno
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from loralab.cli.main import main
from loralab.cli.showing import show_answer
from loralab.cli.table import VERBS
from loralab.cli.verb import Answer, Verb
from loralab.errors import DataError


@dataclass(frozen=True)
class SampleConfig:
    """One flag."""

    rank: int = 8
    """The rank."""


Run = Callable[[SampleConfig], Answer]
Install = Callable[[Run], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make `loralab sample` run a function."""

    def install(run: Run) -> None:
        module = ModuleType("loralab.cli.verbs.sample")
        module.VERB = Verb(SampleConfig, run, show_answer, "loralab sample")  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(VERBS, "sample", "A sample.")

    return install


def talkative(config: SampleConfig) -> Answer:
    print("what a library prints")
    return {"rank": config.rank, "loss": float("nan")}


def test_json_is_all_of_stdout(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(talkative)
    assert main(["sample", "--json", "--rank", "4"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"rank": 4, "loss": None}
    assert captured.out.count("\n") == 1
    assert captured.err == "what a library prints\n"


def test_without_json_lines_for_people(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(talkative)
    assert main(["sample"]) == 0
    assert capsys.readouterr().out == "rank  8\nloss  nan\n"


def test_toml_gives_flags_and_flags_win(install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(lambda config: {"rank": config.rank})
    (tmp_path / "run.toml").write_text("rank = 2\n")
    main(["sample", "--config", str(tmp_path / "run.toml"), "--json"])
    main(["sample", "--config", str(tmp_path / "run.toml"), "--json", "--rank", "3"])
    assert [json.loads(line)["rank"] for line in capsys.readouterr().out.splitlines()] == [2, 3]


def failing(error: BaseException) -> Run:
    def run(config: SampleConfig) -> Answer:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (DataError("line 3 is not JSON"), 2, "error: line 3 is not JSON\n"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/a"), 2, "error: No space left on device: out/a\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_status_of_errors(
    install: Install, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, message: str
) -> None:
    install(failing(error))
    assert main(["sample"]) == status
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", message)


def test_our_bug_keeps_its_traceback(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(failing(ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError):
        main(["sample"])
    assert "this is our bug, sorry" in capsys.readouterr().err
