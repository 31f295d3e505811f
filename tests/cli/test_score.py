"""`loralab score`: outputs from a file against references, without a model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loralab.cli.main import main

Ask = Callable[..., dict[str, Any]]


def test_line_aligned_references_with_blank_lines(tmp_path: Path, ask: Ask) -> None:
    for name, text in (("out", "a b\nc\n"), ("one", "a b\nx\n"), ("two", "\nc\n")):
        (tmp_path / f"{name}.txt").write_text(text)
    references = f"{tmp_path}/one.txt,{tmp_path}/two.txt"
    answer = ask("score", "--task", "samsum", "--predictions", tmp_path / "out.txt", "--references", references)
    assert (answer["examples"], answer["metrics"]["rouge_l"]) == (2, 100.0)


def test_a_glue_submission_against_the_official_file(tmp_path: Path, ask: Ask) -> None:
    (tmp_path / "dev.tsv").write_text("x\t1\t\tA b.\nx\t0\t\tB a.\nx\t1\t\tC.\n")
    (tmp_path / "CoLA.tsv").write_text("index\tprediction\n0\t1\n1\t0\n2\t1\n")
    flags = ["--task", "glue/cola", "--predictions", tmp_path / "CoLA.tsv", "--references", tmp_path / "dev.tsv"]
    assert ask("score", *flags)["metrics"] == {"matthews": 100.0}


def test_classes_of_ones_own_data(tmp_path: Path, ask: Ask) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n')
    (tmp_path / "out").write_text("x\nx\n")
    flags = ["--task", "jsonl", "--predictions", tmp_path / "out", "--references", tmp_path / "data.jsonl"]
    assert ask("score", *flags)["metrics"]["accuracy"] == 50.0


@pytest.mark.parametrize(
    "references, problem",
    [("short.txt", "short.txt has 1 lines"), ("none.txt", "there is no file"), ("none.csv", "no folder")],
)
def test_what_does_not_pair_up(tmp_path: Path, capsys, references: str, problem: str) -> None:
    (tmp_path / "out.txt").write_text("a\nb\n")
    (tmp_path / "short.txt").write_text("a\n")
    flags = ["--predictions", str(tmp_path / "out.txt"), "--references", str(tmp_path / references)]
    assert main(["score", "--task", "e2e", *flags]) == 2
    assert problem in capsys.readouterr().err
