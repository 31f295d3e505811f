from collections import Counter
from pathlib import Path

import pytest

from loralab.errors import DataError, NotFoundError, SpecError
from loralab.tasks.images.task import open_images
from tiny import write_image, write_images, write_lines


def test_folders_as_a_task(tmp_path: Path) -> None:
    task = open_images(str(write_images(tmp_path)))
    assert (task.name, task.kind, task.inputs, task.labels) == ("images", "classification", "images", ("blue", "red"))
    assert (list(task.splits), task.metrics[0]) == (["train", "test"], "accuracy")
    assert [each.label for each in task.examples("train", 4)] == [0, 1, 0, 1]
    assert len(task.examples("test")) == 8


def test_a_split_is_read_once_and_not_before_it_is_asked_for(tmp_path: Path) -> None:
    task = open_images(str(write_images(tmp_path)))
    broken = tmp_path / "test" / "red" / "12.png"
    broken.write_text("")
    assert task.splits["train"]() is task.splits["train"]()
    with pytest.raises(DataError, match=r"test/red/12\.png is not an image"):
        task.examples("test")


def test_what_names_no_splits_is_split_by_the_distinct_images(tmp_path: Path) -> None:
    lines = []
    for number in range(60):
        shade = number // 2  # every image twice, under two names
        write_image(tmp_path / "files" / f"{number}.png", (shade, 0, 0))
        lines.append({"image": f"files/{number}.png", "label": shade % 3})
    task = open_images(str(write_lines(tmp_path / "d.jsonl", lines)))
    parts = {name: {each.digest for each in task.examples(name)} for name in task.splits}
    assert {name: len(task.examples(name)) for name in task.splits} == {
        "train": 52,
        "validation": 4,
        "test": 4,
        "all": 60,
    }
    assert parts["train"] | parts["validation"] | parts["test"] == parts["all"]
    assert Counter(len(part) for part in parts.values()) == {26: 1, 2: 2, 30: 1}
    assert "by a hash of the images it is split into train 52, validation 4, test 4" in task.notes[0]


def test_the_split_does_not_depend_on_names_and_places(tmp_path: Path) -> None:
    for place, names in (("one", "abcdefgh"), ("two", "hgfedcba")):
        for shade, name in enumerate(names):
            write_image(tmp_path / place / ("low" if shade < 4 else "high") / f"{name}.png", (20 * shade, 0, 0))
    one, two = (open_images(str(tmp_path / place)) for place in ("one", "two"))
    assert [each.digest for each in one.examples("test")] == [each.digest for each in two.examples("test")]


def test_a_folder_of_jsonl_files(tmp_path: Path) -> None:
    write_images(tmp_path / "files")
    for split in ("train", "test"):
        paths = sorted((tmp_path / "files" / split).glob("*/*.png"))
        lines = [{"image": str(path.relative_to(tmp_path)), "label": path.parent.name} for path in paths]
        write_lines(tmp_path / f"{split}.jsonl", lines)
    task = open_images(str(tmp_path), ["red", "blue"])
    assert (task.labels, list(task.splits)) == (("red", "blue"), ["train", "test"])
    assert task.examples("test")[0].label == 1


def test_all_unusable_images_are_named_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    lines = [{"image": name, "label": name} for name in ("text.png", "none.png")]
    with pytest.raises(DataError) as caught:
        open_images(str(write_lines(tmp_path / "d.jsonl", lines)))
    assert "d.jsonl, line 1: " in str(caught.value)
    assert "text.png is not an image" in str(caught.value)
    assert "d.jsonl, line 2: there is no image" in str(caught.value)


def test_many_unusable_images_are_counted(tmp_path: Path) -> None:
    lines = [{"image": f"{number}.png", "label": number} for number in range(9)]
    with pytest.raises(DataError, match=r"and 4 more$"):
        open_images(str(write_lines(tmp_path / "d.jsonl", lines)))


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="needs --data"):
        open_images(None)
    with pytest.raises(NotFoundError, match="does not exist"):
        open_images(str(tmp_path / "none"))
