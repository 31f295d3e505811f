from pathlib import Path

import pytest

from loralab.errors import NotFoundError
from loralab.tasks.official import official_files

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
