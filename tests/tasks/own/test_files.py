"""Which file is which split, and what is said of those that are none."""

import json
from pathlib import Path

import pytest

from loralab.errors import DataError, NotFoundError, SpecError
from loralab.tasks.own.files import find_data_files
from loralab.tasks.own.jsonl import open_jsonl

ROW = json.dumps({"prompt": "a", "completion": "b"}) + "\n"


def lay(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(ROW)
    return folder


def found(folder: Path) -> dict[str, list[str]]:
    return {split: [path.name for path in paths] for split, paths in find_data_files(folder).splits.items()}


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev", "eval", "VAL", "evaluation"])
@pytest.mark.parametrize("ending", ["jsonl", "json", "jsonl.gz", "csv", "tsv", "parquet", "ndjson"])
def test_the_usual_names_of_a_validation_file(tmp_path: Path, name: str, ending: str) -> None:
    files = find_data_files(lay(tmp_path, f"Train.{ending}", f"{name}.{ending}", f"testing.{ending}"))
    assert list(files.splits) == ["train", "validation", "test"]
    assert files.notes == ()


def test_what_is_not_read_is_said(tmp_path: Path) -> None:
    task = open_jsonl(str(lay(tmp_path, "train.jsonl", "extra.jsonl", "more.csv", "old.zip", "README.md")))
    assert list(task.splits) == ["train"]
    assert any("extra.jsonl, more.csv, old.zip; a split is called one of train" in note for note in task.notes)


def test_only_a_test_file_is_the_test_split_and_nothing_to_train_on(tmp_path: Path) -> None:
    task = open_jsonl(str(lay(tmp_path, "test.jsonl")))
    assert list(task.splits) == ["test"]
    with pytest.raises(SpecError, match="no split 'train'; it has test"):
        task.examples("train")


def test_the_parts_of_a_split_as_the_hub_has_them(tmp_path: Path) -> None:
    lay(tmp_path, "dataset_infos.json", "data/train-00001-of-00002.jsonl", "data/train-00000-of-00002.jsonl")
    lay(tmp_path, "data/dev-00000-of-00001.jsonl")
    assert found(tmp_path)["train"] == ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"]
    assert len(open_jsonl(str(tmp_path)).examples("train")) == 2
    (tmp_path / "data/train-00001-of-00002.jsonl").unlink()
    with pytest.raises(DataError, match="1 of the 2 parts of train"):
        find_data_files(tmp_path)


def test_two_files_for_one_split(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"both val\.jsonl and dev\.csv"):
        find_data_files(lay(tmp_path, "train.jsonl", "val.jsonl", "dev.csv"))


def test_a_folder_of_data_sets_on_disk(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "val", "unsupervised"]}))
    for name in ("train", "val", "unsupervised"):
        lay(tmp_path, f"{name}/data.arrow")
        (tmp_path / name / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    files = find_data_files(tmp_path)
    assert found(tmp_path) == {"train": ["train"], "validation": ["val"]}
    assert files.paths == (tmp_path / "train/data.arrow", tmp_path / "val/data.arrow")
    assert "unsupervised" in files.notes[0]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"has no train\.jsonl, and 2 other .*\(a\.csv, b\.csv\)"):
        find_data_files(lay(tmp_path, "a.csv", "b.csv"))
