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

from loralab.errors import DataError
from loralab.metrics.wikisql.database import Source, Table, build_database, open_database
from loralab.metrics.wikisql.query import Query, read_query
from loralab.metrics.wikisql.score import Gold, score_queries, write_gold
from loralab.metrics.wikisql.text import render_query
from loralab.tasks.example import Example
from loralab.tasks.hub import HubSet
from loralab.tasks.official import official_files, refuse_labels
from loralab.tasks.readers.lines import Line, read_lines
from loralab.tasks.task import Task
from loralab.tasks.wikisql_outputs import WIKISQL_OUTPUTS
from loralab.tasks.wikisql_tables import ARCHIVE, database_file, parse_table, read_tables, schema, tables_file

FILES = {"train": ["train.jsonl"], "validation": ["dev.jsonl"], "test": ["test.jsonl"]}
"""The official file of each split."""
METRICS = ("logical_form", "execution", "unparsable")
CUE = "\nSQL:"
"""Between the question and the query, which follows after a space."""

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
            f"the table {line.content['table_id']!r} is not among the {len(tables)} tables beside the file"
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
