"""`loralab eval --predictions`: what the model says, in a file that `score` and GLUE's server take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loralab.cli.main import main
from tiny import write_bert

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def cola(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The flags of an adapter for an invented CoLA: data, base and adapter."""
    root = tmp_path_factory.mktemp("glue")
    (root / "CoLA").mkdir()
    rows = [f"x\t{i % 2}\t\tIt is {'good' if i % 2 else 'bad'} {i}." for i in range(16)]
    for name in ("train", "dev"):
        (root / "CoLA" / f"{name}.tsv").write_text("\n".join(rows))
    (root / "CoLA" / "test.tsv").write_text("index\tsentence\n0\tIt is good.\n1\tIt is bad.\n")
    flags = ["--model", write_bert(root / "bert"), "--task", "glue/cola", "--data", root]
    training = ["--out", root / "adapter", "--rank", 2, "--steps", 2, "--batch-size", 8, "--best-epoch"]
    assert main(["train", *map(str, [*flags, *training])]) == 0
    return [*flags, "--adapter", root / "adapter"]


def test_a_test_set_without_labels_becomes_a_submission(cola: list[object], tmp_path: Path, ask: Ask) -> None:
    answer = ask("eval", *cola, "--split", "test", "--predictions", tmp_path)
    assert (answer["loss"], answer["metrics"], answer["examples"]) == (None, {}, 2)
    lines = (tmp_path / "CoLA.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert [line.split("\t")[0] for line in lines[1:]] == ["0", "1"]
    assert {line.split("\t")[1] for line in lines[1:]} <= {"0", "1"}


def test_a_folder_is_made_where_one_is_named(cola: list[object], tmp_path: Path, ask: Ask) -> None:
    ask("eval", *cola, "--split", "test", "--predictions", f"{tmp_path}/to/send/")
    assert [path.name for path in (tmp_path / "to" / "send").iterdir()] == ["CoLA.tsv"]


def test_score_reads_the_folder_that_eval_wrote(cola: list[object], tmp_path: Path, ask: Ask) -> None:
    answer = ask("eval", *cola, "--split", "dev", "--predictions", f"{tmp_path}/sent/")
    references = Path(str(cola[5])) / "CoLA" / "dev.tsv"
    flags = ["--task", "glue/cola", "--predictions", tmp_path / "sent", "--references", references]
    assert ask("score", *flags)["metrics"] == answer["metrics"]


@pytest.mark.parametrize(
    ("names", "message"), [((), "holds none of CoLA.tsv"), (("CoLA.tsv", "predictions.txt"), "name one of them")]
)
def test_a_folder_of_no_or_several_outputs(
    names: tuple[str, ...], message: str, cola: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names:
        (tmp_path / name).write_text("0\n")
    references = Path(str(cola[5])) / "CoLA" / "dev.tsv"
    flags = ["--task", "glue/cola", "--predictions", str(tmp_path), "--references", str(references)]
    assert main(["score", *flags]) == 2
    assert message in capsys.readouterr().err


def test_what_eval_writes_score_reads(cola: list[object], tmp_path: Path, ask: Ask) -> None:
    answer = ask("eval", *cola, "--split", "dev", "--predictions", tmp_path / "out.tsv")
    references = Path(str(cola[5])) / "CoLA" / "dev.tsv"
    flags = ["--task", "glue/cola", "--predictions", tmp_path / "out.tsv", "--references", references]
    assert ask("score", *flags)["metrics"] == answer["metrics"]


def test_without_labels_a_file_must_be_named(cola: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *map(str, cola), "--split", "test"]) == 2
    assert "has no labels to score against; choose another split, or give --predictions" in capsys.readouterr().err


def test_texts_need_generation(tiny: Path, data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ["--model", tiny, "--task", "jsonl", "--data", data, "--predictions", tmp_path / "out"]
    assert main(["eval", *map(str, flags)]) == 2
    assert "--predictions needs --generate" in capsys.readouterr().err
