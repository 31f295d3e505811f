"""Raw text as a task: which files are documents, how they are split, and how long ones become rows."""

import gzip
from itertools import pairwise
from pathlib import Path

import pytest

import loralab as ll
from loralab.nn.targets import IGNORED
from loralab.tasks.encoding.encode import encode_examples
from loralab.tasks.example import Document
from loralab.tasks.own.text import open_text
from loralab.tasks.table import open_task
from loralab.tasks.task import Task
from tiny import byte_tokenizer


def lay(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def texts(task: object, split: str) -> list[str]:
    return [each.text for each in task.examples(split)]  # type: ignore[attr-defined]


def test_a_file_is_a_document_whatever_its_blank_lines(tmp_path: Path) -> None:
    task = open_text(str(lay(tmp_path, a_txt="One.\n\nTwo.", b_md="# Three", sub__c_rst="Four", d_csv_bak="no")))
    assert texts(task, "all") == ["One.\n\nTwo.", "# Three", "Four"]
    assert {len(task.examples(split)) for split in ("train", "validation", "test")} == {1}


def test_names_of_splits_are_kept_and_others_beside_them_refused(tmp_path: Path) -> None:
    task = open_text(str(lay(tmp_path, train__a_txt="A", train__b_txt="B", valid_txt="C")))
    assert (texts(task, "train"), texts(task, "validation")) == (["A", "B"], ["C"])
    (tmp_path / "other.txt").write_text("D")
    with pytest.raises(ll.DataError, match=r"others beside them \(other.txt\)"):
        open_text(str(tmp_path))


def test_the_end_of_a_single_document_is_held_out(tmp_path: Path) -> None:
    text = "".join(f"line {number:03}\n" for number in range(100))
    path = tmp_path / "book.txt.gz"
    path.write_bytes(gzip.compress(text.encode()))
    task = open_text(str(path))
    parts = [texts(task, split)[0] for split in ("train", "validation", "test")]
    assert "".join(parts) == text
    assert [part.count("\n") for part in parts] == [90, 5, 5]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", b" \n", "a.txt is blank"),
        ("a.txt", b"fine\n\xff", "a.txt, line 2: not UTF-8"),
        ("a.csv", b"prompt,completion\na,b\n", "more than a text; give --task jsonl"),
        ("a.pdf", b"x", "holds no files of text"),
    ],
)
def test_what_is_no_text_is_an_error(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ll.LoralabError, match=problem):
        open_text(str(tmp_path / name) if name == "a.csv" else str(tmp_path))


def test_rows_of_text_alone_are_documents_in_either_task(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text("".join(f'{{"text": "number {n}"}}\n' for n in range(9)))
    path = str(tmp_path / "d.jsonl")
    rows, own = open_task("jsonl", path), open_task("text", path)
    assert rows.examples("train") == list(own.examples("train"))
    assert any("as --task text does" in note for note in rows.notes)
    assert not any("as --task text does" in note for note in own.notes)


@pytest.mark.parametrize("max_length", [8, 9, 50, 51, 400])
def test_every_token_of_a_document_is_a_target_once_and_follows_its_own_context(max_length: int) -> None:
    tokenizer, document = byte_tokenizer(), Document("abcdefghijklmnopqrstuvwxyz 0123456789 once upon a")
    task = Task("text", "generation", {}, ())
    whole = tokenizer(document.text)["input_ids"] + [tokenizer.eos_token_id]
    rows = encode_examples(task, [document], tokenizer, max_length).encoded
    assert all(len(row.input_ids) <= max_length for row in rows)
    targets = [label for row in rows for label in row.labels if label != IGNORED]
    assert targets == whole
    for before, after in pairwise(rows):
        assert after.input_ids[0] == before.input_ids[-1]
        assert after.labels[0] == IGNORED
