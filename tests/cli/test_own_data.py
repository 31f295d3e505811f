"""The user's own data by the command line: what its labels are, where it lies, and texts that say nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loralab.cli.main import main
from tiny import write_bert, write_lines

Ask = Callable[..., dict[str, Any]]
TRAIN = ("--steps", 2, "--rank", 2, "--batch-size", 4, "--dtype", "float32")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"))


def write(path: Path, labels: tuple[object, ...], texts: tuple[str, ...] = ()) -> Path:
    """Twelve texts, taken in turn, with labels taken in turn."""
    chosen = texts or tuple(f"text {number}" for number in range(12))
    lines = [{"text": chosen[n % len(chosen)], "label": labels[n % len(labels)]} for n in range(12)]
    return write_lines(path, lines)


def record(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "run.json").read_text())
    return content


@pytest.mark.parametrize(
    ("flags", "kind", "labels"), [((), "regression", []), (("--kind", "classification"), "classification", ["0", "1"])]
)
def test_numbers_with_a_point(
    tmp_path: Path, bert: Path, ask: Ask, flags: tuple[str, ...], kind: str, labels: list[str]
) -> None:
    data, out = write(tmp_path / "d.jsonl", (0.0, 1.0)), tmp_path / "out"
    ask("train", "--model", bert, "--task", "jsonl", "--data", data, "--out", out, *TRAIN, *flags)
    assert (record(out)["kind"], record(out)["labels"]) == (kind, labels)
    assert any("say kind classification" in note for note in record(out)["notes"]) == (kind == "regression")
    whole = write(tmp_path / "whole.jsonl", (0, 1))
    for again in (data, whole):
        answer = ask("eval", "--model", bert, "--adapter", out, "--task", "jsonl", "--data", again, "--split", "all")
        assert ("accuracy" in answer["metrics"]) == (kind == "classification")


def test_kind_is_for_labels(bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", str(bert), "--out", str(tmp_path / "out"), "--kind", "regression", "--task"]
    assert main(["train", *flags, "docstrings"]) == 2
    assert "kind regression: task docstrings is a generation" in capsys.readouterr().err
    data = write(tmp_path / "d.jsonl", ("a", "b"))
    assert main(["train", *flags, "jsonl", "--data", str(data)]) == 2
    assert "line 1: the label" in capsys.readouterr().err


def test_data_below_the_users_home(
    tmp_path: Path, bert: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "d.jsonl", ("a", "b"))
    flags = ["--model", bert, "--task", "jsonl", "--out", tmp_path / "out", *TRAIN]
    ask("train", *flags, "--data", "~/d.jsonl")
    assert list(record(tmp_path / "out")["data"]["files"]) == ["d.jsonl"]
    assert main([*map(str, ["train", *flags, "--overwrite", "--data", "~nobody-here/d.jsonl"])]) == 2
    assert "~nobody-here/d.jsonl" in capsys.readouterr().err


def test_blank_texts_train_and_are_measured(tmp_path: Path, bert: Path, ask: Ask) -> None:
    data = write(tmp_path / "data" / "train.jsonl", ("a", "b"), ("", "x", "some words")).parent
    write(data / "dev.jsonl", ("a", "b"), ("", "x"))
    out = tmp_path / "out"
    answer = ask("train", "--model", bert, "--task", "jsonl", "--data", data, "--out", out, *TRAIN)
    assert answer["metrics"]["loss"] > 0
    assert any("4 of 12 texts are without a token" in note for note in record(out)["notes"])


def test_data_without_a_task_are_answered_with_the_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "d.jsonl", ("a", "b"))
    assert main(["train", "--model", "m", "--data", str(data), "--out", "o"]) == 2
    assert f"--task jsonl --data {data}" in capsys.readouterr().err


def test_eval_holds_out_what_the_run_did(
    tmp_path: Path, bert: Path, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write(tmp_path / "d.jsonl", ("a", "b")), tmp_path / "out"
    flags = ["--model", bert, "--task", "jsonl", "--data", data]
    trained = ask("train", *flags, "--out", out, *TRAIN, "--validation-share", "0.25", "--seed", 3)
    measured = ask("eval", *flags, "--adapter", out, "--split", "validation", "--dtype", "float32")
    assert measured["examples"] == 3
    assert measured["loss"] == pytest.approx(trained["metrics"]["loss"], rel=1e-5)
    assert main([*map(str, ["eval", *flags, "--adapter", out, "--split", "test"])]) == 2
    said = capsys.readouterr().err
    assert "validation is what the run of" in said
    assert "has no split 'test'" in said


@pytest.mark.parametrize(
    ("name", "content", "task", "said"),
    [
        ("d.jsonl", '{"prompt": "a", "chosen": "b", "rejected": "c"}\n', "jsonl", "no outputs are scored against them"),
        ("d.jsonl", '{"text": "a"}\n', "jsonl", "texts alone, which answer nothing"),
        ("d.txt", "a", "text", "there are no outputs to score"),
    ],
)
def test_what_has_no_answers_is_not_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, task: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "out.txt").write_text("x\n")
    files = ["--predictions", str(tmp_path / "out.txt"), "--references", str(tmp_path / name)]
    assert main(["score", "--task", task, *files]) == 2
    assert said in capsys.readouterr().err


def test_pairs_are_measured_as_the_adapter_learned(
    tmp_path: Path, tiny: Path, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"is {n}?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(40)]
    data, out = write_lines(tmp_path / "d.jsonl", rows), tmp_path / "out"
    flags = ["--model", tiny, "--task", "jsonl", "--data", data]
    learn = ("--preference", "dpo", "--beta", "0.3", "--lr", "0.02", "--alpha", 32)
    trained = ask("train", *flags, "--out", out, *TRAIN, *learn)
    measured = ask("eval", *flags, "--adapter", out, "--split", "validation", "--dtype", "float32")
    assert measured["loss"] == pytest.approx(trained["metrics"]["loss"], rel=1e-4)
    assert measured["metrics"]["reward_margin"] == pytest.approx(trained["metrics"]["reward_margin"], rel=1e-3)
    assert main([*map(str, ["eval", *flags])]) == 2
    assert "give an --adapter" in capsys.readouterr().err
