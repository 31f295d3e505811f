from pathlib import Path

import pytest

from loralab.errors import NotFoundError, SpecError
from loralab.tasks.example import Example, Examples
from loralab.tasks.official import official_files, refuse_labels, split_readers

FILES = {"train": ["a.csv", "b.csv"], "test": ["c.csv"]}


def test_files_of_a_folder_in_the_order_of_preference(tmp_path: Path) -> None:
    for name in ("b.csv", "c.csv"):
        (tmp_path / name).touch()
    assert official_files("t", str(tmp_path), FILES) == {"train": tmp_path / "b.csv", "test": tmp_path / "c.csv"}
    (tmp_path / "a.csv").touch()
    assert official_files("t", str(tmp_path), FILES)["train"] == tmp_path / "a.csv"


def test_one_file_is_the_whole(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").touch()
    assert official_files("t", str(tmp_path / "mine.csv"), FILES) == {"all": tmp_path / "mine.csv"}


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"task t: no folder .*give the folder with a\.csv, c\.csv as --data"):
        official_files("t", str(tmp_path / "none"), FILES)
    with pytest.raises(NotFoundError, match=r"holds none of a\.csv, c\.csv"):
        official_files("t", str(tmp_path), FILES)


def test_a_split_is_read_when_asked_for_and_once(tmp_path: Path) -> None:
    (tmp_path / "c.csv").touch()
    asked = []

    def from_file(split: str, path: Path) -> Examples:
        asked.append((split, path))
        return [Example("x", " y")]

    readers = split_readers("t", str(tmp_path), FILES, from_file, from_hub=lambda split: [])
    assert (list(readers), asked) == (["test"], [])
    assert readers["test"]() is readers["test"]()
    assert asked == [("test", tmp_path / "c.csv")]


def test_without_a_path_every_split_is_the_hubs() -> None:
    readers = split_readers("t", None, FILES, lambda split, path: [], lambda split: [Example(split, " y")])
    assert {split: read()[0].prompt for split, read in readers.items()} == {"train": "train", "test": "test"}


def test_labels_are_not_for_texts() -> None:
    refuse_labels("t", None)
    with pytest.raises(SpecError, match="task t generates text; it has no labels"):
        refuse_labels("t", ("a", "b"))
