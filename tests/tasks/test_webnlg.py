from pathlib import Path

import pytest

from loralab.errors import DataError, SpecError
from loralab.tasks.example import Example
from loralab.tasks.outputs import text_lines
from loralab.tasks.task import Task
from loralab.tasks.triples import Text, parse_entries
from loralab.tasks.webnlg import SEEN, hub_entry, open_webnlg, webnlg_files


def examples_of(task: Task, split: str) -> list[Example]:
    return [each for each in task.examples(split) if isinstance(each, Example)]


def read(data: Path, split: str) -> list[Example]:
    return examples_of(open_webnlg(str(data)), split)


@pytest.fixture(scope="module")
def official(shared_data: Path) -> Task:
    return open_webnlg(str(shared_data / "webnlg2017"))


@pytest.mark.parametrize(
    "split, examples, references",
    [
        ("train", 18025, 18025),
        ("validation", 871, 2268),
        ("test", 1862, 4928),
        ("test_seen", 971, 2495),
        ("test_unseen", 891, 2433),
    ],
)
def test_official_row_counts(official: Task, split: str, examples: int, references: int) -> None:
    found = examples_of(official, split)
    assert len(found) == examples
    assert sum(len(each.references) for each in found) == references


@pytest.mark.parametrize(
    "split, entries, texts, to_fix",
    [("train", 6940, 18102, 77), ("validation", 872, 2268, 10), ("test", 1862, 4928, 0)],
)
def test_official_entry_counts(shared_data: Path, split: str, entries: int, texts: int, to_fix: int) -> None:
    files = webnlg_files(str(shared_data / "webnlg2017"))[split]
    found = [entry for path in files for entry in parse_entries(path, path.read_bytes())]
    marks = [text.comment for entry in found for text in entry.texts]
    assert (len(found), len(marks), marks.count("toFix")) == (entries, texts, to_fix)
    assert {entry.category for entry in found} == SEEN if split == "train" else len(found)


def test_the_test_set_is_in_the_order_of_the_official_references(shared_data: Path, official: Task) -> None:
    examples = examples_of(official, "test")
    assert [each.part for each in examples] == ["seen"] * 971 + ["unseen"] * 891
    folder = shared_data / "metrics" / "webnlg2017" / "references"
    files = [text_lines((folder / f"gold-all-cat-reference{n}.lex").read_text(encoding="utf-8")) for n in range(3)]
    counts = [sum(bool(line.strip()) for line in lines) for lines in zip(*files, strict=True)]
    assert [min(3, len(each.references)) for each in examples] == counts
    words = [
        set(each.references[0].lower().split()) & set(line.split())
        for each, line in zip(examples, files[0], strict=True)
    ]
    assert all(words)


DOCUMENT = """<benchmark><entries>
<entry category="Food" eid="Id1"><modifiedtripleset><mtriple>A_B | c | D</mtriple></modifiedtripleset>
<lex comment="good">one</lex><lex comment="toFix">two</lex></entry>
<entry category="Athlete" eid="Id2"><modifiedtripleset><mtriple>E | c | D</mtriple></modifiedtripleset>
<lex comment="toFix">three</lex></entry>
</entries></benchmark>"""


def test_training_takes_good_texts_and_evaluation_all(tmp_path: Path) -> None:
    for name in ("train/a.xml", "dev/a.xml", "testdata_with_lex.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(DOCUMENT)
    assert read(tmp_path, "train") == [Example("A_B : c : D ->", " one", ("one",))]
    assert [each.references for each in read(tmp_path, "dev")] == [("one", "two"), ("three",)]
    assert [each.part for each in read(tmp_path, "test")] == ["seen", "unseen"]
    assert [each.references for each in read(tmp_path, "test_unseen")] == [("three",)]
    assert "18025" in open_webnlg(str(tmp_path)).notes[0]


def test_splits_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "broken.xml").write_text("<bench")
    (tmp_path / "testdata_with_lex.xml").write_text(DOCUMENT)
    assert len(read(tmp_path, "test")) == 2
    with pytest.raises(DataError, match=r"broken\.xml, line 1: not XML"):
        read(tmp_path, "train")


def test_labels_are_refused() -> None:
    with pytest.raises(SpecError, match="it has no labels"):
        open_webnlg(None, ["a"])


def test_a_row_of_the_hub() -> None:
    row = {
        "category": "Food",
        "modified_triple_sets": {"mtriple_set": [["A_B | c | D"]]},
        "lex": {"comment": ["good"], "lid": ["Id1"], "text": ["one"], "lang": [""]},
    }
    entry = hub_entry(1, row)
    assert (entry.triples, entry.texts, entry.category) == ((("A_B", "c", "D"),), (Text("one", "good"),), "Food")
    with pytest.raises(DataError, match="row 2: not a row as expected"):
        hub_entry(2, row | {"lex": None})
