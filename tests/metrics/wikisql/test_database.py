import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from loralab.errors import DataError
from loralab.metrics.wikisql.database import Database, Table, build_database, open_database, table_name
from loralab.metrics.wikisql.query import Condition, Query, Value

ROWS = [["Ann", "1,000", "x"], ["BOB", 2.5, None], ["Cäsar", "n/a", 3], ["ann", 7, "X"]]
TABLES = {"1-2-3": Table(("Name", "Points", "Other"), ("text", "real", "text"), ROWS)}


@pytest.fixture
def database() -> Iterator[Database]:
    database = build_database(lambda: TABLES, ["1-2-3", "unknown"])
    yield database
    database.close()


def run(database: Database, column: int, aggregation: int, *conditions: tuple[int, int, Value]) -> list[object] | None:
    return database.results("1-2-3", Query(column, aggregation, tuple(Condition(*each) for each in conditions)))


def test_names_of_tables() -> None:
    assert (table_name("1-2-3"), table_name("table_7")) == ("table_1_2_3", "table_7")


def test_texts_are_lower_cased_on_both_sides(database: Database) -> None:
    assert run(database, 0, 0) == ["ann", "bob", "cäsar", "ann"]
    assert run(database, 1, 0, (0, 0, "ANN")) == [1000.0, 7.0]
    assert run(database, 0, 0, (0, 0, "CÄSAR")) == ["cäsar"]
    assert run(database, 0, 3, (2, 0, "x")) == [2]


def test_real_columns_compare_numbers(database: Database) -> None:
    assert run(database, 0, 0, (1, 1, "1,000")) == ["cäsar"], "text is more than any number, as SQLite has it"
    assert run(database, 0, 0, (1, 0, "about 2.5 or 7")) == ["bob"]
    assert run(database, 0, 0, (1, 2, 7)) == ["bob"]
    assert run(database, 0, 0, (2, 0, 3)) == ["cäsar"]


def test_aggregations(database: Database) -> None:
    conditions = (1, 2, 2000)
    found = [run(database, 1, aggregation, conditions) for aggregation in range(6)]
    assert found == [[1000.0, 2.5, 7.0], [1000.0], [2.5], [3], [1009.5], [1009.5 / 3]]
    assert run(database, 1, 1, (0, 0, "nobody")) == [None]


def test_two_conditions_on_a_column_share_the_second_value(database: Database) -> None:
    assert run(database, 0, 0, (1, 1, 3), (1, 2, 100)) == run(database, 0, 0, (1, 1, 100), (1, 2, 100)) == []


@pytest.mark.parametrize(
    "column, condition", [(9, (0, 0, "a")), (0, (9, 0, "a")), (0, (1, 0, "none")), (0, (0, 0, 2**70))]
)
def test_what_cannot_be_run_has_no_results(database: Database, column: int, condition: tuple[int, int, Value]) -> None:
    assert run(database, column, 0, condition) is None


def test_only_tables_that_are_known_are_there(database: Database) -> None:
    assert "1-2-3" in database
    assert "unknown" not in database


def test_an_official_file_is_opened_for_reading_only(tmp_path: Path) -> None:
    path = tmp_path / "a ? # b.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE table_1_2 (col0 text, col1 REAL)")
        connection.execute("INSERT INTO table_1_2 VALUES ('ann', 2)")
    connection.close()
    database = open_database(path, ["1-2"])
    assert database.results("1-2", Query(0, 0, (Condition(1, 0, "2.0"),))) == ["ann"]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        database.connection.execute("DELETE FROM table_1_2")
    database.close()


def test_another_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "dev.db"
    path.write_text("no database" * 100)
    with pytest.raises(DataError, match=r"dev\.db is not an SQLite database"):
        open_database(path, [])
