import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loralab.errors import DataError, NotFoundError, SpecError
from loralab.tasks.example import Example
from loralab.tasks.own.jsonl import open_jsonl, split_rows


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_one_file_is_split_by_its_inputs(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{number % 100}", "completion": str(number)} for number in range(200)]
    task = open_jsonl(write(tmp_path / "d.jsonl", rows))
    sizes = {split: len(task.examples(split)) for split in task.splits}
    assert sizes == {"train": 180, "validation": 10, "test": 10, "all": 200}
    assert "train 180, validation 10, test 10" in task.notes[0]


@given(st.lists(st.text(max_size=3)))
def test_no_input_is_on_two_sides_and_order_does_not_matter(prompts: list[str]) -> None:
    rows = [Example(prompt, " y") for prompt in prompts]
    sides = [{row.prompt for row in part} for part in split_rows(rows).values()]
    assert sum(map(len, sides)) == len(set(prompts))
    assert [{row.prompt for row in part} for part in split_rows(rows[::-1]).values()] == sides
    if len(set(prompts)) >= 3:
        assert all(sides)


def test_a_folder_of_splits(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        write(tmp_path / f"{split}.jsonl", [{"text": str(n), "label": n % 2} for n in range(count)])
    task = open_jsonl(str(tmp_path))
    assert (task.kind, task.labels, list(task.splits)) == ("classification", ("0", "1"), ["train", "test"])
    assert len(task.examples("train")) == 3
    assert "accuracy" in task.metrics


def test_a_label_of_another_split_that_training_lacks(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"text": "x", "label": label} for label in "ab"])
    write(tmp_path / "validation.jsonl", [{"text": "x", "label": "c"}])
    with pytest.raises(DataError, match=r"validation\.jsonl, line 1: the label 'c' is not one of .*\(a, b\)"):
        open_jsonl(str(tmp_path))


def test_values_make_a_regression(tmp_path: Path) -> None:
    rows = [{"text_a": str(n), "text_b": "b", "label": n / 2} for n in range(5)]
    task = open_jsonl(write(tmp_path / "d.jsonl", rows))
    assert (task.kind, task.labels, task.metrics) == ("regression", (), ("pearson", "spearman"))


def test_too_little_for_a_test_is_said(tmp_path: Path) -> None:
    task = open_jsonl(write(tmp_path / "d.jsonl", [{"prompt": "a", "completion": "b"}]))
    with pytest.raises(DataError, match=r"'test' is empty .*one file of 1 objects"):
        task.examples("test")


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="needs --data"):
        open_jsonl(None)
    with pytest.raises(NotFoundError, match="does not exist"):
        open_jsonl(str(tmp_path / "none.jsonl"))
    with pytest.raises(NotFoundError, match=r"has no train\.jsonl"):
        open_jsonl(str(tmp_path))


def test_labels_for_text_to_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it has no labels"):
        open_jsonl(write(tmp_path / "d.jsonl", [{"prompt": "a", "completion": "b"}]), ["x", "y"])


def test_a_folder_with_one_file_is_that_file(tmp_path: Path) -> None:
    rows = [{"instruction": str(number), "output": "x"} for number in range(40)]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    task = open_jsonl(str(tmp_path))
    assert {split: len(task.examples(split)) for split in task.splits} == {
        "train": 36,
        "validation": 2,
        "test": 2,
        "all": 40,
    }
    (tmp_path / "other.jsonl").write_text("")
    with pytest.raises(NotFoundError, match="2 other JSON or JSONL files"):
        open_jsonl(str(tmp_path))


def test_splits_may_be_json_lists(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps([{"prompt": "a", "completion": "b"}] * 3))
    write(tmp_path / "test.jsonl", [{"prompt": "a", "completion": "b"}])
    task = open_jsonl(str(tmp_path))
    assert {split: len(task.examples(split)) for split in task.splits} == {"train": 3, "test": 1}
    write(tmp_path / "train.jsonl", [{"prompt": "a", "completion": "b"}])
    with pytest.raises(SpecError, match=r"both train\.jsonl and train\.json"):
        open_jsonl(str(tmp_path))
