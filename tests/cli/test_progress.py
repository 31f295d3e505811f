"""The line of progress: silent at first, redrawn in a terminal, a line now and then elsewhere."""

import io
from pathlib import Path

import pytest

from loralab.cli.main import main
from loralab.cli.opening import say
from loralab.cli.progress import ERASE, ProgressLine
from loralab.progress import Work


class Screen(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(stream: io.StringIO, seconds: list[float], *works: tuple[Work, ...]) -> str:
    """What stands on the stream after being told of works at these times, and of their end."""
    clock = Clock()
    line = ProgressLine(stream, clock)
    for clock.now, work in zip(seconds, works, strict=True):
        line(work)
    line(())
    return stream.getvalue()


def steps(*done: int) -> list[tuple[Work, ...]]:
    return [(Work("ranks", 10, each),) for each in done]


def test_what_is_over_soon_shows_nothing() -> None:
    assert shown(Screen(), [0, 1, 2.9], *steps(0, 4, 9)) == ""
    assert shown(io.StringIO(), [0, 1, 14], *steps(0, 4, 9)) == ""


def test_a_terminal_has_one_line_that_goes_away() -> None:
    text = shown(Screen(), [0, 4, 4.1, 6], *steps(0, 2, 3, 5))
    assert text == f"{ERASE}ranks 3/10, about 16 s left{ERASE}ranks 6/10, about 6 s left{ERASE}"


def test_elsewhere_a_line_now_and_then_remains() -> None:
    text = shown(io.StringIO(), [0, 10, 20, 30, 40], *steps(0, 2, 4, 6, 8))
    assert text == "ranks 5/10, about 30 s left\nranks 9/10, about 10 s left\n"


def test_work_within_work_counts_as_a_part_of_its_item() -> None:
    nested = [(Work("ranks", 4, 1), Work("batches", 10, done)) for done in (0, 5)]
    assert (
        shown(Screen(), [0, 300], *nested).removeprefix(ERASE).startswith("ranks 2/4, batches 6/10, about 8 min left")
    )


def test_a_narrow_terminal_keeps_it_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "12")
    assert shown(Screen(), [0, 4], *steps(0, 2)) == f"{ERASE}ranks 3/10,{ERASE}"


def test_latency_says_how_far_it_is(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loralab.cli.progress.PATIENCE", 0.0)
    monkeypatch.setattr("loralab.cli.progress.LINE", 0.0)
    flags = ["--settings", "1x4,1x8", "--sizes", "2", "--rank", "1", "--rounds", "2", "--repeats", "1"]
    assert main(["bench", "latency", "--model", str(tiny), *flags, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert "settings 2/2, rounds 3/3, contenders" in said


def test_what_was_announced_is_shown_at_once_and_named_while_a_part_of_it_is_counted() -> None:
    whole = Work("the model is converted", 1)
    assert shown(Screen(), [0], (whole,)) == f"{ERASE}the model is converted{ERASE}"
    text = shown(Screen(), [0, 4], (whole,), (whole, Work("tensors", 10, 5)))
    assert text.endswith(f"{ERASE}the model is converted, tensors 6/10, about 4 s left{ERASE}")


def test_loading_and_examining_say_how_far_they_are(
    tiny: Path, adapter: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loralab.cli.progress.PATIENCE", 0.0)
    monkeypatch.setattr("loralab.cli.progress.LINE", 0.0)
    assert main(["analyse", "doctor", str(adapter), "--model", str(tiny)]) == 0
    said = capsys.readouterr().err
    for each in ("loading weights 2/", "modules of the base recognised 2/4", "updates examined 2/4", "weights 2/4"):
        assert each in said


def test_what_is_said_in_a_terminal_is_folded_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    for stream, lines in ((Screen(), ["a sentence that is a", "little longer"]), (io.StringIO(), None)):
        monkeypatch.setattr("sys.stderr", stream)
        note = "a sentence that is a little longer\n  --a-command of-its-own stays-as-it-is"
        say([note])
        assert stream.getvalue().splitlines() == [*(lines or [note.splitlines()[0]]), note.splitlines()[1]]
