from pathlib import Path

import pytest

from loralab.errors import NotFoundError, SpecError
from loralab.tasks.webnlg import webnlg_files


def make(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder)


def found(data: str) -> dict[str, list[str]]:
    return {split: [str(path.relative_to(data)) for path in files] for split, files in webnlg_files(data).items()}


def test_the_release_with_training_data_one_folder_deeper(tmp_path: Path) -> None:
    data = make(tmp_path, "c/train/2triples/b.xml", "c/train/1triples/z.xml", "c/dev/1triples/a.xml", "c/dev/NOTES")
    make(tmp_path, "testdata_with_lex.xml")
    assert found(data) == {
        "train": ["c/train/1triples/z.xml", "c/train/2triples/b.xml"],
        "validation": ["c/dev/1triples/a.xml"],
        "test": ["testdata_with_lex.xml"],
    }


def test_only_the_whole_test_set_is_taken(tmp_path: Path) -> None:
    data = make(tmp_path, "test/testdata_no_lex.xml", "test/testdata_unseen_with_lex.xml", "test/testdata_with_lex.xml")
    assert found(data) == {"test": ["test/testdata_with_lex.xml"]}


def test_the_folder_of_a_split_and_a_single_file_are_all(tmp_path: Path) -> None:
    data = make(tmp_path, "1triples/a.xml", "b.xml")
    assert found(data) == {"all": ["1triples/a.xml", "b.xml"]}
    assert webnlg_files(str(tmp_path / "b.xml")) == {"all": (tmp_path / "b.xml",)}


def test_nothing_and_too_much(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no folder"):
        webnlg_files(str(tmp_path / "none"))
    with pytest.raises(NotFoundError, match=r"neither train/1triples.*testdata_with_lex\.xml"):
        webnlg_files(str(tmp_path))
    with pytest.raises(SpecError, match=r"two train sets in .*give the folder of one"):
        webnlg_files(make(tmp_path, "v1/train/a.xml", "v2/train/a.xml"))
