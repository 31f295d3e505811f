import json
from pathlib import Path
from typing import Any

import pytest

from loralab.errors import DataError, NotFoundError, SpecError
from loralab.tasks.example import Example
from loralab.tasks.samsum import open_samsum

ROW = {"id": "1", "dialogue": "A: hi\r\nB: ho", "summary": "A and B meet. "}


def read(data: Path, split: str) -> list[Example]:
    return [each for each in open_samsum(str(data)).examples(split) if isinstance(each, Example)]


@pytest.mark.parametrize("split, rows, crlf", [("validation", 818, 710), ("test", 819, 724)])
def test_official_row_counts_and_line_breaks(shared_data: Path, split: str, rows: int, crlf: int) -> None:
    examples = read(shared_data / "samsum", split)
    dialogues = [each.prompt.removesuffix("\n\n") for each in examples]
    assert len(examples) == rows
    assert sum("\r\n" in dialogue for dialogue in dialogues) == crlf
    assert not any("\r" in dialogue.replace("\r\n", "") for dialogue in dialogues)
    assert sum("\n" in dialogue and "\r\n" not in dialogue for dialogue in dialogues) == rows - crlf


@pytest.mark.parametrize("name, split", [("train.json", "train"), ("val.json", "validation"), ("test.jsonl", "test")])
def test_official_lists_and_lines(tmp_path: Path, name: str, split: str) -> None:
    text = json.dumps([ROW]) if name.endswith(".json") else json.dumps(ROW) + "\n"
    (tmp_path / name).write_text(text)
    expected = Example("A: hi\r\nB: ho\n\n", "A and B meet.", ("A and B meet.",))
    assert read(tmp_path, split) == [expected]
    assert open_samsum(str(tmp_path / name)).examples("all") == (expected,)


def test_a_dialogue_that_comes_twice_is_one_input_outside_of_training(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"summary": "They meet."}]
    for name in ("train.json", "test.json"):
        (tmp_path / name).write_text(json.dumps(rows))
    assert [each.target for each in read(tmp_path, "train")] == ["A and B meet.", "They meet."]
    assert [each.references for each in read(tmp_path, "test")] == [("A and B meet.", "They meet.")]


def test_one_empty_dialogue_is_left_out_of_training_and_no_more(tmp_path: Path) -> None:
    empty = ROW | {"dialogue": " "}
    (tmp_path / "train.json").write_text(json.dumps([empty, ROW]))
    (tmp_path / "test.json").write_text(json.dumps([ROW, empty]))
    assert len(read(tmp_path, "train")) == 1
    assert "left out" in open_samsum(str(tmp_path)).notes[0]
    with pytest.raises(DataError, match=r"test\.json, element 2: the dialogue is empty"):
        read(tmp_path, "test")
    (tmp_path / "train.json").write_text(json.dumps([empty, ROW, empty]))
    with pytest.raises(DataError, match=r"train\.json, element 3: the dialogue is empty"):
        read(tmp_path, "train")


@pytest.mark.parametrize(
    "row, message",
    [
        ({"dialogue": "a"}, "line 1: there is no summary"),
        ({"text": "a"}, "line 1: there is no dialogue; the keys are text"),
        ({"context": "a", "response": None}, "line 1: response is null"),
        ({"dialogue": ["a"], "summary": "b"}, "line 1: dialogue is a list"),
        ({"dialogue": "a", "summary": " "}, "line 1: the summary is empty"),
    ],
)
def test_bad_rows(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    (tmp_path / "val.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"val\.jsonl, " + message):
        read(tmp_path, "validation")


def test_missing_files_and_labels(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none of train\.json, val\.json, test\.json"):
        open_samsum(str(tmp_path))
    with pytest.raises(SpecError, match="it has no labels"):
        open_samsum(None, ["a"])
