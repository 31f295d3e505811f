import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from loralab.errors import DataError, NotFoundError, SpecError
from loralab.tasks.dart import hub_line, open_dart, read_entries
from loralab.tasks.example import Example

ENTRY: dict[str, Any] = {
    "tripleset": [["A b", "EVENING_GOWN", " C "], ["A b", "eatType", "pub"]],
    "annotations": [{"source": "s", "text": "one"}, {"source": "s", "text": " "}],
}
XML = """<benchmark><entries><entry><modifiedtripleset><mtriple>A b | EVENING_GOWN | C</mtriple>
<mtriple>A b | eatType | pub</mtriple></modifiedtripleset><lex comment="e2e">one</lex></entry></entries></benchmark>"""
PROMPT = "A b : evening_gown : C | A b : eattype : pub ->"


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def pack(folder: Path, *names: str) -> Path:
    path = folder / "dart-v1.1.1-full-test.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        for name in names:
            archive.add(write(folder / "packed", XML), arcname=name)
    return path


@pytest.mark.parametrize(
    "file, split, entries, texts, examples",
    [
        ("dart-v1.1.1-full-dev.json", "validation", 2768, 6980, 2721),
        ("dart-v1.1.1-full-test.tar.xz", "test", 5097, 12552 - 1, 4159),
    ],
)
def test_official_row_counts(shared_data: Path, file: str, split: str, entries: int, texts: int, examples: int) -> None:
    found = read_entries(shared_data / "dart" / file)
    assert (len(found), sum(len(entry.texts) for entry in found)) == (entries, texts)
    grouped = open_dart(str(shared_data / "dart")).examples(split)
    assert len(grouped) == examples
    assert sum(len(each.answers()) for each in grouped if isinstance(each, Example)) == texts


def test_every_form_of_a_file_gives_the_same(tmp_path: Path) -> None:
    expected = (Example(PROMPT, " one", ("one",)),)
    paths = [write(tmp_path / "a.json", [ENTRY]), write(tmp_path / "b.xml", XML), pack(tmp_path, "x/y.xml", "a.lex")]
    for path in paths:
        assert open_dart(str(path)).examples("all") == expected
    assert list(open_dart(str(tmp_path)).splits) == ["test"]


def test_training_has_an_example_per_text(tmp_path: Path) -> None:
    twice = ENTRY | {"subtree_was_extended": True, "annotations": [{"text": "one"}, {"text": "two"}]}
    write(tmp_path / "dart-v1.1.1-full-train.json", [twice, ENTRY, ENTRY | {"annotations": []}])
    train = open_dart(str(tmp_path)).examples("train")
    assert [each.target for each in train if isinstance(each, Example)] == [" one", " two", " one"]


@pytest.mark.parametrize(
    "content, message",
    [
        ([ENTRY, {"tripleset": []}], "element 2: there is no annotations"),
        ([ENTRY | {"tripleset": []}], "element 1: tripleset and annotations must be lists"),
        ([ENTRY | {"tripleset": [["a", "b"]]}], "element 1: a triple must be three strings"),
        ([ENTRY | {"tripleset": [["a", 1, "b"]]}], "element 1: a triple must be three strings"),
        ([ENTRY | {"annotations": ["one"]}], "element 1: an annotation must be an object with a text"),
        ([ENTRY | {"annotations": []}], "element 1: there is no text to compare with"),
        ("[\n{", "line 2: not JSON"),
        ("[]", "empty list"),
        ("", "is empty"),
        ("<benchmark>\n", "line 2: not XML"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path / "dev.json", content)
    with pytest.raises(DataError, match=r"dev\.json.*" + message):
        open_dart(str(path)).examples("all")


def test_broken_archives(tmp_path: Path) -> None:
    path = pack(tmp_path, "a.xml", "b.xml")
    with pytest.raises(DataError, match="holds 2 XML files"):
        read_entries(path)
    path.write_bytes(pack(tmp_path, "a.xml").read_bytes()[:200])
    with pytest.raises(DataError, match=r"not a whole \.tar\.xz archive"):
        read_entries(path)


def test_missing_files_and_labels(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none of dart-v1\.1\.1-full-train\.json"):
        open_dart(str(tmp_path))
    with pytest.raises(SpecError, match="it has no labels"):
        open_dart(None, ["a"])


def test_a_row_of_the_hub() -> None:
    row = ENTRY | {"annotations": {"source": ["s"], "text": ["one"]}, "subtree_was_extended": None}
    assert hub_line(1, row).content["annotations"] == [{"text": "one"}]
    with pytest.raises(DataError, match="Yale-LILY/dart, row 2: annotations must be columns"):
        hub_line(2, ENTRY)
