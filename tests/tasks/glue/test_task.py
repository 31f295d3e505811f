"""GLUE's official files, and invented ones in their layout for the sets that are not at hand."""

from collections import Counter
from pathlib import Path

import pytest

from loralab.errors import DataError, NotFoundError, SpecError
from loralab.tasks.example import LabelledExample
from loralab.tasks.glue.table import GLUE, MNLI_FILES
from loralab.tasks.glue.task import open_glue
from loralab.tasks.table import READERS, open_task

PARSES = "sentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse"
MNLI_HEADER = f"index\tpromptID\tpairID\tgenre\t{PARSES}\tsentence1\tsentence2"


@pytest.mark.parametrize(
    "name, split, counts",
    [
        ("cola", "train", {1: 6023, 0: 2528}),
        ("cola", "validation", {1: 721, 0: 322}),
        ("sst2", "train", {1: 37569, 0: 29780}),
        ("sst2", "validation", {1: 444, 0: 428}),
        ("mrpc", "train", {1: 2474, 0: 1194}),
        ("mrpc", "dev", {1: 279, 0: 129}),
        ("mrpc", "test", {None: 1725}),
        ("rte", "train", {0: 1249, 1: 1241}),
        ("rte", "validation", {0: 146, 1: 131}),
        ("wnli", "train", {1: 312, 0: 323}),
        ("wnli", "validation", {1: 31, 0: 40}),
    ],
)
def test_official_label_counts(shared_data: Path, name: str, split: str, counts: dict[int | None, int]) -> None:
    examples = open_task(f"glue/{name}", str(shared_data / "glue")).examples(split)
    assert Counter(each.label for each in examples if isinstance(each, LabelledExample)) == counts


@pytest.mark.parametrize("split, rows, mean", [("train", 5749, 2.7010), ("validation", 1500, 2.3639)])
def test_official_values(shared_data: Path, split: str, rows: int, mean: float) -> None:
    task = open_task("glue/stsb", str(shared_data / "glue"))
    values = [each.label for each in task.examples(split)]
    assert (task.kind, task.labels, len(values)) == ("regression", (), rows)
    assert sum(values) / rows == pytest.approx(mean, abs=5e-5)


def test_quotation_marks_are_text(shared_data: Path) -> None:
    examples = open_task("glue/mrpc", str(shared_data / "glue")).examples("train")
    assert sum('"' in each.text_a for each in examples) > 100


def test_every_task_of_the_contract_is_there() -> None:
    assert {
        f"glue/{name}" for name in ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
    } <= READERS.keys()
    assert [task.metrics[0] for task in GLUE.values()].count("accuracy") == 7


@pytest.mark.parametrize("place", ["", "CoLA", "CoLA/dev.tsv"])
def test_root_own_folder_and_single_file(tmp_path: Path, place: str) -> None:
    write(tmp_path / "CoLA" / "dev.tsv", "gj04\t1\t\tA sentence.\nbc01\t0\t*\tNot sentence one a.")
    task = open_glue("cola", str(tmp_path / place))
    (split,) = task.splits
    assert split == ("all" if place.endswith("tsv") else "validation")
    assert [(each.text_a, each.text_b, each.label) for each in task.examples(split)] == [
        ("A sentence.", None, 1),
        ("Not sentence one a.", None, 0),
    ]


def test_cola_has_a_header_in_the_test_file_alone(tmp_path: Path) -> None:
    write(tmp_path / "CoLA" / "test.tsv", "index\tsentence\n0\tBill whistled.\n")
    (only,) = open_glue("cola", str(tmp_path)).examples("test")
    assert (only.text_a, only.label) == ("Bill whistled.", None)


@pytest.mark.parametrize(
    "name, header, row, expected",
    [
        ("qnli", "index\tquestion\tsentence\tlabel", "0\tWhy?\tSo.\tnot_entailment", ("Why?", "So.", 1)),
        ("qqp", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "7\t1\t2\tHow?\tWhy?\t1", ("How?", "Why?", 1)),
        ("sst2", "sentence\tlabel", "fine work \t1", ("fine work", None, 1)),
    ],
)
def test_columns_of_sets_not_at_hand(tmp_path: Path, name: str, header: str, row: str, expected: tuple) -> None:
    write(tmp_path / GLUE[name].folder / "train.tsv", f"{header}\n{row}\n")
    (only,) = open_glue(name, str(tmp_path)).examples("train")
    assert (only.text_a, only.text_b, only.label) == expected


def write_mnli(root: Path) -> None:
    for split, name in (("matched", "dev_matched.tsv"), ("mismatched", "dev_mismatched.tsv")):
        row = "0\t1\t1\tg\tx\tx\tx\tx\tA.\tB.\tneutral\tneutral"
        write(root / "MNLI" / name, f"{MNLI_HEADER}\tlabel1\tgold_label\n" + f"{row}\n" * (1 + (split == "matched")))
    write(
        root / "MNLI" / "train.tsv",
        f"{MNLI_HEADER}\tlabel1\tgold_label\n0\t1\t1\tg\tx\tx\tx\tx\tA.\tB.\tneutral\tneutral\n",
    )
    write(root / "MNLI" / "test_matched.tsv", f"{MNLI_HEADER}\n0\t1\t1\tg\tx\tx\tx\tx\tA.\tB.\n")
    write(root / "AX" / "AX.tsv", "index\tsentence1\tsentence2\n0\tA.\tB.\n")


def test_mnli_has_both_validation_sets_together_and_apart(tmp_path: Path) -> None:
    write_mnli(tmp_path)
    task = open_glue("mnli", str(tmp_path))
    assert set(task.splits) == {*MNLI_FILES, "validation"} - {"test_mismatched"}
    assert [each.part for each in task.examples("validation")] == ["matched", "matched", "mismatched"]
    assert [len(task.examples(name)) for name in ("validation_matched", "dev_mismatched")] == [2, 1]
    assert task.examples("diagnostic")[0].label is None
    assert task.labels == ("entailment", "neutral", "contradiction")


def test_a_trained_models_own_order_of_labels_is_kept(tmp_path: Path) -> None:
    write_mnli(tmp_path)
    theirs = ("contradiction", "neutral", "entailment")
    task = open_glue("mnli", str(tmp_path), theirs)
    assert (task.labels, task.examples("train")[0].label) == (theirs, 1)
    with pytest.raises(SpecError, match=r"trained on yes, no; give the task that it was trained on"):
        open_glue("mnli", str(tmp_path), ("yes", "no"))


@pytest.mark.parametrize(
    "row, problem",
    [
        ("gj04\t2\t\tA sentence.", r"line 2: the label is '2'; it must be one of 0, 1"),
        ("gj04\t1\tA sentence.", r"line 2: 3 cells, expected 4"),
        ("gj04\t1\t\tA\tsentence.", r"line 2: 5 cells, expected 4"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, problem: str) -> None:
    write(tmp_path / "CoLA" / "train.tsv", f"gj04\t1\t\tFine.\n{row}\n")
    with pytest.raises(DataError, match=problem):
        open_glue("cola", str(tmp_path)).examples("train")


def test_a_score_off_the_scale_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", "sentence1\tsentence2\tscore\nA\tB\t5.5\n")
    with pytest.raises(DataError, match=r"line 2: the score is '5.5'; it must be a number from 0 to 5"):
        open_glue("stsb", str(tmp_path)).examples("train")


def test_torn_rows_of_qqp_are_left_out_while_they_are_few(tmp_path: Path) -> None:
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    path = tmp_path / "QQP" / "train.tsv"
    write(path, header + "0\t1\t2\tHow?\tWhy?\t1\n" * 1500 + "0\t1\t2\tHow\n")
    task = open_glue("qqp", str(tmp_path))
    assert len(task.examples("train")) == 1500
    assert "torn rows" in task.notes[0]
    write(path, header + "0\t1\t2\tHow?\tWhy?\t1\n" * 15 + "0\t1\t2\tHow\n")
    with pytest.raises(DataError, match="1 of 17 rows have too few cells"):
        open_glue("qqp", str(tmp_path)).examples("train")


def test_missing_folder_column_and_content(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"has neither the folder RTE nor train\.tsv; give the GLUE root folder"):
        open_glue("rte", str(tmp_path))
    write(tmp_path / "RTE" / "train.tsv", "index\tpremise\tlabel\n0\tA\tentailment\n")
    with pytest.raises(DataError, match="there is no column sentence1, sentence2"):
        open_glue("rte", str(tmp_path)).examples("train")
    write(tmp_path / "RTE" / "train.tsv", "")
    with pytest.raises(DataError, match="is empty"):
        open_glue("rte", str(tmp_path)).examples("train")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
