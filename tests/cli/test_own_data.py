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
