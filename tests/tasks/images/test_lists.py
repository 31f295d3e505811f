from pathlib import Path

import pytest

from loralab.errors import DataError, NotFoundError
from loralab.tasks.images.lists import Listing, by_split, list_lines
from tiny import write_lines


def listing(folder: Path, *lines: dict[str, object], classes: list[str] | None = None) -> Listing:
    return list_lines({"all": write_lines(folder / "d.jsonl", lines)}, classes)


def test_paths_are_relative_to_the_file_and_classes_in_order(tmp_path: Path) -> None:
    lines = [{"image": "in/a.png", "label": "dog"}, {"image": str(tmp_path / "b.png"), "label": "cat"}]
    found = listing(tmp_path / "data", *lines)
    images = found.splits["all"]
    assert found.classes == ("cat", "dog")
    assert [each.path for each in images] == [tmp_path / "data" / "in" / "a.png", tmp_path / "b.png"]
    assert [(each.label, each.line.number) for each in images] == [(1, 1), (0, 2)]


def test_integers_are_classes_in_the_order_of_numbers(tmp_path: Path) -> None:
    found = listing(tmp_path, {"image": "a", "label": 10}, {"image": "b", "label": 9})
    assert (found.classes, [each.label for each in found.splits["all"]]) == (("9", "10"), [1, 0])


def test_known_classes_keep_their_order(tmp_path: Path) -> None:
    found = listing(tmp_path, {"image": "a", "label": "cat"}, classes=["dog", "cat"])
    assert (found.classes, found.splits["all"][0].label) == (("dog", "cat"), 1)


@pytest.mark.parametrize(
    "line, message",
    [
        ({"image": "a"}, "its keys are image; they must be image and label"),
        ({"image": "a", "label": "x", "text": "y"}, "its keys are image, label, text"),
        ({"image": 3, "label": "x"}, "image is 3; it must be the path"),
        ({"image": "", "label": "x"}, "image is ''"),
        ({"image": "a", "label": 0.5}, "label is 0.5; the class of an image must be a string or an integer"),
        ({"image": "a", "label": None}, "label is None"),
        ({"image": "a", "label": 1}, "not of the first line's type"),
    ],
)
def test_lines_that_list_no_image(tmp_path: Path, line: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=rf"d\.jsonl, line 2: .*{message}"):
        listing(tmp_path, {"image": "a", "label": "x"}, line)


def test_a_single_class_and_a_class_of_the_test_that_training_lacks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs two classes"):
        listing(tmp_path, {"image": "a", "label": "x"})
    train = write_lines(tmp_path / "train.jsonl", [{"image": "a", "label": label} for label in "xy"])
    test = write_lines(tmp_path / "test.jsonl", [{"image": "a", "label": "z"}])
    with pytest.raises(DataError, match=r"test\.jsonl, line 1: the label 'z' is not one of the training data's \(x, y"):
        list_lines({"train": train, "test": test}, None)


def test_files_by_their_splits(tmp_path: Path) -> None:
    dev, train, test = (tmp_path / f"{name}.jsonl" for name in ("dev", "train", "test"))
    assert list(by_split(tmp_path, [dev, test, train], None)) == ["train", "validation", "test"]
    assert by_split(tmp_path, [test], ["a", "b"]) == {"test": test}
    with pytest.raises(NotFoundError, match=r"has dev\.jsonl, test\.jsonl, but nothing to train on"):
        by_split(tmp_path, [dev, test], None)
    with pytest.raises(DataError, match="two are for one split"):
        by_split(tmp_path, [dev, train, tmp_path / "val.jsonl"], None)
