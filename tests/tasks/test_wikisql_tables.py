import json
from pathlib import Path
from typing import Any

import pytest

from loralab.errors import DataError, NotFoundError
from loralab.metrics.wikisql.database import Table
from loralab.tasks.wikisql import database_file, read_tables, schema, tables_file

TABLE: dict[str, Any] = {"id": "1-2", "header": ["A", "B"], "types": ["text", "real"], "rows": [["a", 1], ["b", None]]}


def write(folder: Path, *tables: dict[str, Any]) -> Path:
    (folder / "dev.tables.jsonl").write_text("".join(json.dumps(table) + "\n" for table in tables) + "\n")
    return folder / "dev.jsonl"


def test_where_the_tables_are() -> None:
    assert tables_file(Path("a/dev.jsonl")) == Path("a/dev.tables.jsonl")
    assert database_file(Path("a/dev.jsonl")) == Path("a/dev.db")


def test_tables_by_their_ids(tmp_path: Path) -> None:
    tables = read_tables(write(tmp_path, TABLE | {"caption": "c"}, TABLE | {"id": "1-3", "rows": []}))
    assert list(tables) == ["1-2", "1-3"]
    assert tables["1-2"] == Table(("A", "B"), ("text", "real"), [["a", 1], ["b", None]])


def test_the_schema_names_columns_as_queries_do() -> None:
    assert schema(Table(("A", "B", "A"), ("text", "real", "text"), [])) == 'table(col0 text, "B" real, col2 text)'


def test_missing_tables_are_named_with_where_to_have_them(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"there is no .*dev\.tables\.jsonl; .* it is in data\.tar\.bz2"):
        read_tables(tmp_path / "dev.jsonl")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"types": ["text"]}, "header and types must be lists of strings"),
        ({"header": []}, "header and types must be lists of strings"),
        ({"header": ["A", 1]}, "header and types must be lists of strings"),
        ({"rows": "none"}, "rows is a str; it must be a list"),
        ({"rows": [["a"]]}, "every row must be a list of 2"),
        ({"rows": [["a", ["b"]]]}, "every row must be a list of 2"),
        ({"id": 3}, "id is a int"),
        ({}, "a second table with the id '1-2'"),
    ],
)
def test_bad_tables(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path, TABLE, TABLE | change)
    with pytest.raises(DataError, match=r"dev\.tables\.jsonl, line 2: " + message):
        read_tables(path)
