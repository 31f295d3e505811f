from pathlib import Path

import pytest

from loralab.errors import DataError, NotFoundError
from loralab.tasks.images.folders import list_folders


def lay(root: Path, *files: str) -> Path:
    """Empty files: nothing is opened here."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_classes_take_turns(tmp_path: Path) -> None:
    lay(tmp_path, "dog/2.png", "dog/1.JPG", "cat/3.png", "cat/5.png", "dog/4.tiff")
    found = list_folders(tmp_path, None)
    assert (list(found.splits), found.classes, found.notes) == (["all"], ("cat", "dog"), ())
    assert [each.path.name for each in found.splits["all"]] == ["3.png", "1.JPG", "5.png", "2.png", "4.tiff"]
    assert [each.label for each in found.splits["all"]] == [0, 1, 0, 1, 1]


def test_folders_for_splits(tmp_path: Path) -> None:
    lay(tmp_path, "test/dog/1.png", "train/cat/2.png", "train/dog/3.png", "val/cat/4.png")
    found = list_folders(tmp_path, None)
    assert list(found.splits) == ["train", "validation", "test"]
    assert [each.label for each in found.splits["test"]] == [1]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert list_folders(lay(tmp_path, "train/1.png", "plane/2.png"), None).classes == ("plane", "train")


def test_hidden_files_are_passed_over_and_others_noted(tmp_path: Path) -> None:
    lay(tmp_path, "a/1.png", "b/2.png", ".DS_Store", "a/.DS_Store", "b/._2.png", "a/Thumbs.db", ".git/x", "README.md")
    found = list_folders(tmp_path, None)
    assert len(found.splits["all"]) == 2
    assert found.notes == (f"left aside in {tmp_path}: README.md",)


def test_known_classes(tmp_path: Path) -> None:
    lay(tmp_path, "test/cat/1.png")
    found = list_folders(tmp_path, ["dog", "cat"])
    assert (list(found.splits), found.classes, found.splits["test"][0].label) == (["test"], ("dog", "cat"), 1)


@pytest.mark.parametrize(
    "files, message",
    [
        (["a/1.png", "b/1.png", "b/notes.txt"], r"class folder .*b may hold images only .* there is notes\.txt"),
        (["a/1.png", "b/more/1.png"], "there is more; move it away"),
        (["a/1.png", "b/.hidden"], r"class folder .*b is empty"),
        (["a/1.png", "b/1.png", "2.png"], r"images outside the folders of the classes \(2\.png\)"),
        (["a/1.png"], r"too few folders of classes \(a\)"),
        ([], r"too few folders of classes \(none\)"),
        (
            ["train/a/1.png", "train/b/1.png", "test/c/1.png"],
            r"test/c: not one of the training data's classes \(a, b\)",
        ),
        (["train/a/1.png", "train/b/1.png", "train/3.png"], r"images outside the folders of the classes"),
        (["part_1/a/1.png", "part_2/a/1.png"], "splits: these are called train, training, validation, valid, val, dev"),
        (["train/a/1.png", "val/a/1.png", "dev/a/1.png"], "two are for one split"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list_folders(lay(tmp_path, *files), None)


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="has test, but nothing to train on"):
        list_folders(lay(tmp_path, "test/a/1.png", "test/b/1.png"), None)
