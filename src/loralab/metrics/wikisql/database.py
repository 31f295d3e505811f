"""WikiSQL's tables in SQLite, and what a query gives there, as the official scripts run it.

Table `1-23-4` is called `table_1_23_4` and its columns `col0`, `col1`, …, of type text or real. Text is lower-cased
in the tables and in the queries. The value for a real column is read as a number: commas are left out, and what is
then no number gives its first digits. Two conditions on the same column share the value of the second, as they do
in the official script. It knows nothing of scores.
"""

import re
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from loralab.errors import DataError
from loralab.metrics.wikisql.query import AGGREGATIONS, OPERATORS, Query, Value

REAL = "real"
NUMBER = re.compile(r"[-+]?\d*\.\d+|\d+")
"""What counts as a number inside other text."""


@dataclass(frozen=True)
class Table:
    """One table: the names and types of its columns, and its rows."""

    header: tuple[str, ...]
    types: tuple[str, ...]
    rows: Sequence[Sequence[Any]]


class Database:
    """An open database of WikiSQL's tables."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.names = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

    def __contains__(self, table_id: str) -> bool:
        return table_name(table_id) in self.names

    def results(self, table_id: str, query: Query) -> list[Any] | None:
        """The values that the query gives, in the table's order; None where it cannot be run."""
        types = {
            row[1]: str(row[2]).lower() for row in self.connection.execute(f"PRAGMA table_info({_name(table_id)})")
        }
        try:
            values = {
                f"col{each.column}": _operand(each.value, types[f"col{each.column}"]) for each in query.conditions
            }
            return [row[0] for row in self.connection.execute(_statement(table_id, query), values)]
        except (sqlite3.Error, LookupError, ValueError, OverflowError):
            return None

    def close(self) -> None:
        self.connection.close()


Source = Callable[[Collection[str]], Database]
"""Opens a database of those of the tables with these ids that it has."""


def open_database(path: Path, table_ids: Collection[str]) -> Database:
    """An official .db file, to be read only; it has whatever tables it has. Raises `DataError` for another file."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        return Database(connection)
    except sqlite3.Error as error:
        connection.close()
        raise DataError(f"{path} is not an SQLite database ({error}); give WikiSQL's own .db file") from error


def build_database(read_tables: Callable[[], Mapping[str, Table]], table_ids: Collection[str]) -> Database:
    """A database in memory, made from the rows of the tables."""
    tables = read_tables()
    connection = sqlite3.connect(":memory:")
    for table_id in dict.fromkeys(table_ids):
        if table := tables.get(table_id):
            _insert(connection, table_id, table)
    return Database(connection)


def table_name(table_id: str) -> str:
    """What the table is called in the database."""
    return table_id if table_id.startswith("table") else f"table_{table_id.replace('-', '_')}"


def _name(table_id: str) -> str:
    return '"' + table_name(table_id).replace('"', '""') + '"'


def _statement(table_id: str, query: Query) -> str:
    column, aggregation = f"col{query.column}", AGGREGATIONS[query.aggregation]
    conditions = " AND ".join(
        f"col{each.column} {OPERATORS[each.operator]} :col{each.column}" for each in query.conditions
    )
    selection = f"{aggregation}({column})" if aggregation else column
    return f"SELECT {selection} FROM {_name(table_id)}" + (f" WHERE {conditions}" if conditions else "")


def _operand(value: Value, kind: str) -> Value:
    if isinstance(value, str) and kind == REAL:
        return _number(value)
    return value.lower() if isinstance(value, str) else value


def _number(text: str) -> float:
    """Raises `LookupError` where there is none."""
    try:
        return float(Decimal(text.replace(",", "")))
    except InvalidOperation:
        return float(NUMBER.findall(text)[0])


def _insert(connection: sqlite3.Connection, table_id: str, table: Table) -> None:
    columns = ", ".join(f"col{column} {REAL if kind == REAL else 'text'}" for column, kind in enumerate(table.types))
    connection.execute(f"CREATE TABLE {_name(table_id)} ({columns})")
    places = ", ".join("?" for _ in table.types)
    rows = [[_cell(cell, kind) for cell, kind in zip(row, table.types, strict=True)] for row in table.rows]
    connection.executemany(f"INSERT INTO {_name(table_id)} VALUES ({places})", rows)


def _cell(cell: Any, kind: str) -> Any:
    """A number where a real column's text is one, commas left out; anything else as lower-cased text."""
    if cell is None:
        return None
    try:
        return float(Decimal(str(cell).replace(",", ""))) if kind == REAL else str(cell).lower()
    except InvalidOperation:
        return str(cell).lower()
