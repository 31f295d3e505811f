"""WikiSQL: a table's schema and a question -> the SQL query that answers it (Zhong et al. 2017).

Read from the official files, {train,dev,test}.jsonl, with {split}.tables.jsonl beside them, which the prompts need.
Without the tables a system's outputs can still be scored; where {split}.db or the tables are there, by execution as
well. One example per question, as the official evaluator counts: the few that are asked twice have, in part, two
different answers.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from loralab.errors import DataError, NotFoundError
from loralab.metrics.wikisql.database import Source, Table, build_database, open_database
from loralab.metrics.wikisql.query import Query, read_query
from loralab.metrics.wikisql.score import Gold, score_queries, write_gold
from loralab.metrics.wikisql.text import column_text, render_query
from loralab.tasks.example import Example, Examples
from loralab.tasks.hub import HubSet
from loralab.tasks.official import official_files, refuse_labels
from loralab.tasks.outputs import OutputFormat, read_output_lines, render_output_lines
from loralab.tasks.readers.lines import Line, read_lines
from loralab.tasks.task import Task

FILES = {"train": ["train.jsonl"], "validation": ["dev.jsonl"], "test": ["test.jsonl"]}
"""The official file of each split."""
METRICS = ("logical_form", "execution", "unparsable")
CUE = "\nSQL:"
"""Between the question and the query, which follows after a space."""

ARCHIVE = "data.tar.bz2 of https://github.com/salesforce/WikiSQL"

HUB = HubSet("wikisql", "Salesforce/wikisql", f"train.jsonl, dev.jsonl and test.jsonl with their tables, in {ARCHIVE}")

ReadTables = Callable[[], Mapping[str, Table]]


def open_wikisql(data: str | None, labels: Sequence[str] | None = None) -> Task:
    """The task, from a folder with the official files, from one of them, or from the Hub without either.

    Raises `NotFoundError` for a path that is not there or a folder with none of the files, `SpecError` for labels.
    """
    refuse_labels("wikisql", labels)
    if data is None:
        hub = {split: cache(partial(_from_hub, split)) for split in FILES}
        return Task("wikisql", "generation", hub, METRICS, score_texts=score_queries, outputs=WIKISQL_OUTPUTS)
    files = official_files("wikisql", data, FILES)
    tables = {split: cache(partial(read_tables, path)) for split, path in files.items()}
    sources = [source for split, path in files.items() if (source := _source(path, tables[split]))]
    return Task(
        "wikisql",
        "generation",
        {split: cache(partial(_prompted, path, tables[split])) for split, path in files.items()},
        METRICS,
        score_texts=partial(score_queries, sources=sources),
        outputs=WIKISQL_OUTPUTS,
        files=(*files.values(), *(tables_file(path) for path in files.values() if _has_tables(path))),
        answers={split: cache(partial(_answers, path)) for split, path in files.items() if not _has_tables(path)},
    )


def _has_tables(path: Path) -> bool:
    return tables_file(path).is_file()


def _source(path: Path, read: ReadTables) -> Source | None:
    """Where queries on these questions' tables can be run: the official database, or one made from the tables."""
    if database_file(path).is_file():
        return partial(open_database, database_file(path))
    return partial(build_database, read) if _has_tables(path) else None


def _prompted(path: Path, read: ReadTables) -> tuple[Example, ...]:
    tables = read()
    return tuple(_example(line, tables) for line in read_lines(path))


def _answers(path: Path) -> tuple[Example, ...]:
    """Questions whose tables are not known, to score outputs against."""
    return tuple(_question(line, None) for line in read_lines(path))


def _example(line: Line, tables: Mapping[str, Table]) -> Example:
    table = tables.get(line.text("table_id"))
    if table is None:
        raise line.error(
            f"the table {line.content['table_id']!r:.80} is not among the {len(tables)} tables beside the file"
        )
    return _question(line, table)


def _question(line: Line, table: Table | None) -> Example:
    query, question, header = _query(line), line.text("question").strip(), table.header if table else ()
    columns = [query.column, *(each.column for each in query.conditions)]
    if table and max(columns) >= len(header):
        raise line.error(f"the query has column {max(columns)}, but its table only {len(header)}")
    prompt = f"{schema(table)}\n{question}{CUE}" if table else question
    gold = Gold(query, line.text("table_id"), header)
    return Example(prompt, " " + render_query(query, header), (write_gold(gold),))


def _query(line: Line) -> Query:
    try:
        return read_query(line.value("sql"))
    except DataError as error:
        raise line.error(str(error)) from error


def _from_hub(split: str) -> tuple[Example, ...]:
    return tuple(hub_example(number, row) for number, row in enumerate(HUB.rows(split), start=1))


def hub_example(number: int, row: dict[str, Any]) -> Example:
    """The Hub has each question with its table, and the conditions as columns, their values as text."""
    line = Line(Path(HUB.repository), number, row, "row")
    try:
        sql, table_id = row["sql"], row["table"]["id"]
        names = ("column_index", "operator_index", "condition")
        conditions = zip(*(sql["conds"][name] for name in names), strict=True)
        sql = {"sel": sql["sel"], "agg": sql["agg"], "conds": list(conditions)}
        table = parse_table(Line(line.path, number, row["table"], "row"))
    except (LookupError, TypeError) as error:
        raise line.error(f"not a row as expected ({error!r}); give the official files as --data") from error
    return _question(Line(line.path, number, {**row, "sql": sql, "table_id": table_id}, "row"), table)


# -- tables on disk: `dev.tables.jsonl` beside `dev.jsonl` -------------------------------------------------------------


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
            raise line.error(f"a second table with the id {table_id!r:.80}; keep one of them")
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


# -- a system's outputs: one a line, SQL text or the JSON of the official predictions file ----------------------------


def read_outputs(path: Path, examples: Examples) -> list[str]:
    """The outputs, without surrounding space; as the official files do, one may end in blank lines."""
    return read_output_lines(path, examples, "questions", ends=True)


WIKISQL_OUTPUTS = OutputFormat(read_outputs, render_output_lines)
"""Written one a line, with a space in place of each line break."""
