from pathlib import Path

import pytest

from loralab.errors import DataError, NotFoundError, SpecError
from loralab.tasks.e2e import FILES, grouped_references, open_e2e, read_rows, single_references


@pytest.fixture
def folder(shared_data: Path) -> Path:
    return shared_data / "e2e"


@pytest.mark.parametrize(
    "split, rows, meanings", [("train", 42061, 4862), ("validation", 4672, 547), ("test", 4693, 630)]
)
def test_official_row_counts(folder: Path, split: str, rows: int, meanings: int) -> None:
    found = read_rows(folder / FILES[split][0])
    assert len(found) == rows
    assert len({meaning for meaning, _ in found}) == meanings
    assert len(single_references(found)) == rows
    assert sum(len(each.references) for each in grouped_references(found)) == rows


def test_evaluation_has_one_example_per_meaning(folder: Path) -> None:
    task = open_e2e(str(folder))
    assert [len(task.examples(split)) for split in ("train", "validation", "test")] == [42061, 547, 630]
    first = task.examples("test")[0]
    assert first.prompt == "name[Blue Spice], eatType[coffee shop], area[city centre] ->"
    assert first.target == " " + first.references[0]
    assert len(first.references) > 1


def test_no_meaning_is_in_two_splits(folder: Path) -> None:
    task = open_e2e(str(folder))
    prompts = [{each.prompt for each in task.examples(split)} for split in task.splits]
    assert len(set.union(*prompts)) == sum(map(len, prompts)) == 4862 + 547 + 630


def test_two_references_have_line_breaks(folder: Path) -> None:
    rows = read_rows(folder / FILES["train"][0])
    assert sum("\n" in reference for _, reference in rows) == 2


def test_references_are_grouped_though_apart() -> None:
    (a, b) = grouped_references([("m", "1"), ("n", "2"), ("m", "3")])
    assert (a.references, b.references) == (("1", "3"), ("2",))


@pytest.mark.parametrize("text", ["text,ref\na,b\n", "mr,ref\na\n", "mr,ref\na,\n", 'mr,ref\n"a,b\n'])
def test_a_bad_file_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "devset.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"devset\.csv"):
        read_rows(path)


def test_missing_folder_and_files(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no folder"):
        open_e2e(str(tmp_path / "none"))
    with pytest.raises(NotFoundError, match=r"holds none of trainset\.csv"):
        open_e2e(str(tmp_path))


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    (tmp_path / "devset.csv").write_text("mr,ref\na,b\n")
    with pytest.raises(SpecError, match="no split 'test'; it has validation"):
        open_e2e(str(tmp_path)).examples("test")


def test_line_breaks_inside_a_cell_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "devset.csv").write_bytes(b'\xef\xbb\xbfmr,ref\r\na,"b\r\nc"\r\n')
    assert read_rows(tmp_path / "devset.csv") == [("a", "b\r\nc")]
