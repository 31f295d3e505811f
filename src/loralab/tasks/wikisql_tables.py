"""WikiSQL's tables on disk: `dev.tables.jsonl` beside `dev.jsonl`. It knows nothing of questions and queries."""

from pathlib import Path
from typing import Any

from loralab.errors import NotFoundError
from loralab.metrics.wikisql.database import Table
from loralab.metrics.wikisql.text import column_text
from loralab.tasks.readers.lines import Line, read_lines

ARCHIVE = "data.tar.bz2 of https://github.com/salesforce/WikiSQL"


def tables_file(questions: Path) -> Path:
    """Where the tables of a file of questions are."""
    return questions.with_suffix(".tables.jsonl")


def database_file(questions: Path) -> Path:
    """Where the same tables are as SQLite."""
    return questions.with_suffix(".db")


def read_tables(questions: Path) -> dict[str, Table]:
    """id -> table, for a file of questions. Raises `NotFoundError` where the tables are not beside it."""
    path = tables_file(questions)
    if not path.is_file():
        raise NotFoundError(
            f"task wikisql: the questions of {questions} are asked of tables, and there is no {path}; put "
            f"{path.name} there, it is in {ARCHIVE} (without it, outputs can be scored, but no prompt be written)"
        )
    tables: dict[str, Table] = {}
    for line in read_lines(path):
        table_id, table = line.text("id"), parse_table(line)
        if table_id in tables:
            raise line.error(f"a second table with the id {table_id!r}; keep one of them")
        tables[table_id] = table
    return tables


def parse_table(line: Line) -> Table:
    """A table from its object. Raises `DataError` for one without header, types and rows of the same width."""
    header, types, rows = (_list(line, key) for key in ("header", "types", "rows"))
    if not header or len(header) != len(types) or not all(isinstance(each, str) for each in header + types):
        raise line.error("header and types must be lists of strings, as many of one as of the other")
    if not all(isinstance(row, list) and len(row) == len(header) and all(map(_is_cell, row)) for row in rows):
        raise line.error(f"every row must be a list of {len(header)} texts or numbers, as many as the header has")
    return Table(tuple(header), tuple(types), rows)


def schema(table: Table) -> str:
    """The table as a prompt shows it: each column as queries name it, with its type."""
    columns = (f"{column_text(column, table.header)} {kind}" for column, kind in enumerate(table.types))
    return f"table({', '.join(columns)})"


def _is_cell(cell: Any) -> bool:
    return cell is None or isinstance(cell, str | int | float)


def _list(line: Line, key: str) -> list[Any]:
    value = line.value(key)
    if not isinstance(value, list):
        raise line.error(f"{key} is a {type(value).__name__}; it must be a list")
    return value
