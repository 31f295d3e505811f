"""The same rows from every kind of file, and what is wrong with one said with its place."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from loralab.errors import DataError, NotFoundError
from loralab.tasks.readers.rows import read_rows

ROWS: list[dict[str, Any]] = [
    {"text": 'a, "b"\nc\u2028', "label": 1, "weight": 0.5},
    {"text": "é\t中", "label": 0, "weight": 2.0},
]


def jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\r\n" for row in ROWS))


def packed(path: Path) -> None:
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, ROWS)).encode()))


def json_list(path: Path) -> None:
    path.write_text(json.dumps(ROWS))


def delimited(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ROWS[0].keys(), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(ROWS)


def parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


def arrow_folder(path: Path) -> None:
    """As `datasets` writes it with save_to_disk."""
    path.mkdir()
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}
    table = pyarrow.Table.from_pylist(ROWS).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    for number, part in enumerate((table[:1], table[1:])):
        with (
            pyarrow.OSFile(str(path / f"data-{number}.arrow"), "wb") as file,
            pyarrow.ipc.new_stream(file, table.schema) as writer,
        ):
            writer.write_table(part)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": f"data-{n}.arrow"} for n in (0, 1)]}))


@pytest.mark.parametrize(
    "name, write",
    [
        ("d.jsonl", jsonl),
        ("d.ndjson", jsonl),
        ("d.jsonl.gz", packed),
        ("D.JSONL.GZ", packed),
        ("packed_unsaid.jsonl", packed),
        ("d.json", json_list),
        ("d.csv", delimited),
        ("d.tsv", delimited),
        ("d.parquet", parquet),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    found = [line.content for line in read_rows(tmp_path / name)]
    assert found == ROWS
    assert [type(row["label"]) for row in found] == [int, int]


def test_a_data_set_on_disk_with_its_classes_names(tmp_path: Path) -> None:
    arrow_folder(tmp_path / "set")
    found = read_rows(tmp_path / "set")
    assert [line.content["label"] for line in found] == ["yes", "no"]
    assert str(found[1].error("x")).endswith("set, row 2: x")
    (tmp_path / "set" / "data-1.arrow").unlink()
    with pytest.raises(NotFoundError, match=r"lacks data-1\.arrow"):
        read_rows(tmp_path / "set")


def test_nulls_of_a_table_are_absent(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([{"a": "x", "b": None, "c": [{"d": 1, "e": None}]}])
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    assert read_rows(tmp_path / "d.parquet")[0].content == {"a": "x", "c": [{"d": 1}]}


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("d.jsonl", rb'{"a": "x"}' + b"\n" + rb'{"a": "\ud83d"}', r"line 2: \\ud83d is half of a character"),
        ("d.jsonl", rb'{"a": {"b": ["\udc00"]}}', r"line 1: \\udc00 is half"),
        ("d.jsonl", rb'{"\ud800": 1}', r"line 1: \\ud800 is half"),
        ("d.json", rb'[{"a": "x"}, {"a": "\uD800 "}]', r"element 2: \\ud800 is half"),
        ("d.jsonl", '{"a": "x"}'.encode("utf-16"), "line 1: not UTF-8"),
        ("d.jsonl", b'{"a": "\x00"}', "line 1: not JSON"),
        ("d.jsonl.gz", b"\x1f\x8b\x08\x00", "cannot be read"),
        ("d.jsonl.gz", gzip.compress(b'{"a": "xxxxxxxxxxxxxxxxxxx"}', mtime=0)[:-9], "cannot be read"),
        ("d.csv", b"a,b\n1,2\n3\n", "line 3: 1 cells, the header has 2"),
        ("d.csv", b"a,b\n1,\xe9\n", "line 2: not UTF-8"),
        ("d.csv", b'a,b\n"x\ny",2\n\n3,4\n', "line 4: blank"),
        ("d.csv", b'a,b\n1,2\n"x" y,2\n', "line 3: .* expected after"),
        ("d.csv", b'a,b\n"x,2\n', "line 2: unexpected end"),
        ("d.csv", b"a,a\n1,2\n", "line 1: .*twice"),
        ("d.csv", b"a, b\n1,2\n", "line 1: .*space around"),
        ("d.csv", b"", "no rows"),
        ("d.tsv", b"a\tb\n\n", "no rows"),
        ("d.parquet", b"PAR1", "cannot be read as Parquet"),
        ("d.parquet", b"", "cannot be read as Parquet"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name)


def test_whole_characters_beyond_the_first_plane_and_escaped_nulls_are_texts(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(rb'{"a": "\ud83d\ude00\u0000"}')
    assert read_rows(tmp_path / "d.jsonl")[0].content == {"a": "\U0001f600\0"}


def test_a_very_long_cell_and_a_very_long_line(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text\n" + "x" * 400_000 + "\n")
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": "x" * 400_000}))
    assert [len(read_rows(tmp_path / name)[0].content["text"]) for name in ("d.csv", "d.jsonl")] == [400_000] * 2


def test_a_column_of_numbers_is_numbers_only_if_all_of_it_is(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("label,text\n1,7\n2,8\n")
    assert read_rows(tmp_path / "d.csv")[0].content == {"label": 1, "text": "7"}
    (tmp_path / "d.csv").write_text("label,text\n1,7\nx,8\n")
    assert read_rows(tmp_path / "d.csv")[0].content["label"] == "1"
    (tmp_path / "d.csv").write_text("label,text\n1,7\n2.5,8\n")
    assert read_rows(tmp_path / "d.csv")[0].content["label"] == 1.0


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_the_header_shows_what_separates(separator: str, quoting: Any, ending: str, tmp_path: Path) -> None:
    rows = [["prompt", "completion"], ["a; b, c | d\t", 'say "no"\nor;'], ["", "1,5"]]
    with (tmp_path / f"x.{ending}").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=separator, quoting=quoting).writerows(rows)
    read = [line.content for line in read_rows(tmp_path / f"x.{ending}")]
    assert read == [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def test_one_column_stays_one(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text\na;b\n")
    assert [line.content for line in read_rows(tmp_path / "x.csv")] == [{"text": "a;b"}]
