"""WikiSQL's scores, as its official evaluator defines them, on a 0–100 scale.

Logical form: the query has the column, the aggregation and the set of conditions of the right one, whatever their
order, values compared as lower-cased text. Execution: both give the same values in the table. A prediction is SQL
text, or the official predictions file's JSON ({"query": {"sel", "agg", "conds"}}, or {"error": …}), or such a query
alone; one that is none of these counts as wrong, and is counted. It knows nothing of models and files.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from loralab.errors import DataError
from loralab.metrics.scores import Scores, check_pairs
from loralab.metrics.wikisql.database import Database, Source
from loralab.metrics.wikisql.query import Query, read_query
from loralab.metrics.wikisql.text import Header, parse_query

NESTED = ("query", "sql")
"""Where in a JSON object the query may stand: in a line of predictions, and of questions."""


@dataclass(frozen=True)
class Gold:
    """A right query, and what it takes to read and run others on its table."""

    query: Query
    table_id: str
    header: Header = ()


def write_gold(gold: Gold) -> str:
    """As one JSON object, so that it can stand as a reference among texts."""
    header = {"header": list(gold.header)} if gold.header else {}
    return json.dumps({"table_id": gold.table_id, "sql": gold.query.official()} | header, ensure_ascii=False)


def read_gold(text: str) -> Gold:
    """What `write_gold` wrote, or a line of the official questions. Raises `DataError` for anything else."""
    content = _object(text)
    table_id, header = content.get("table_id", ""), content.get("header", [])
    if not isinstance(table_id, str) or not isinstance(header, list):
        raise DataError(f"{text!r:.80} is no WikiSQL reference: an object with table_id, sql and perhaps header")
    return Gold(read_query(content.get("sql")), table_id, tuple(map(str, header)))


def read_prediction(text: str, header: Header) -> Query:
    """The query that a prediction says. Raises `DataError` for one that says none."""
    if not text.lstrip().startswith("{"):
        return parse_query(text, header)
    content = _object(text)
    if content.get("error"):
        raise DataError(f"an error in place of a query: {content['error']!r:.80}")
    return read_query(next((content[key] for key in NESTED if key in content), content))


def score_queries(
    predictions: Sequence[str], references: Sequence[Sequence[str]], sources: Sequence[Source] = ()
) -> Scores:
    """`logical_form`, `unparsable` (how many) and, where `sources` have all the tables, `execution`.

    Each prediction has one reference, as `write_gold` writes it. Raises `DataError` where the two do not pair up, or
    a right query cannot be run.
    """
    check_pairs(predictions, references)
    golds = [_only(each) for each in references]
    queries = [_attempt(text, gold.header) for text, gold in zip(predictions, golds, strict=True)]
    pairs = list(zip(queries, golds, strict=True))
    metrics = {"logical_form": _percent(query is not None and _same(query, gold) for query, gold in pairs)}
    executed, notes = _execution(pairs, sources)
    unparsable = queries.count(None)
    if unparsable:
        named = all(gold.header for gold in golds)
        hint = "" if named else "; without the tables only columns as col0, col1, … can be read"
        notes = (f"{unparsable} of {len(pairs)} predictions are not a query and count as wrong{hint}", *notes)
    return Scores(metrics | executed | {"unparsable": float(unparsable)}, notes)


def _execution(
    pairs: Sequence[tuple[Query | None, Gold]], sources: Sequence[Source]
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The metric, or why there is none."""
    missing = {gold.table_id for _, gold in pairs}
    with ExitStack() as stack:
        databases: list[Database] = []
        for source in sources:
            databases.append(stack.enter_context(closing(source(missing))))
            missing = {table_id for table_id in missing if table_id not in databases[-1]}
            if not missing:
                return {"execution": _percent(_agrees(query, gold, databases) for query, gold in pairs)}, ()
    return {}, (f"execution accuracy is left out: {len(missing)} tables, such as {min(missing)!r}, are not there",)


def _agrees(query: Query | None, gold: Gold, databases: Sequence[Database]) -> bool:
    database = next(each for each in databases if gold.table_id in each)
    expected = database.results(gold.table_id, gold.query)
    if expected is None:
        raise DataError(f"the reference {gold.query.official()} cannot be run on table {gold.table_id!r}")
    return query is not None and database.results(gold.table_id, query) == expected


def _same(query: Query, gold: Gold) -> bool:
    return query.logical_form() == gold.query.logical_form()


def _attempt(text: str, header: Header) -> Query | None:
    try:
        return read_prediction(text, header)
    except DataError:
        return None


def _only(references: Sequence[str]) -> Gold:
    if len(references) != 1:
        raise DataError(f"{len(references)} references for a query; WikiSQL has one for each")
    return read_gold(references[0])


def _percent(right: Iterable[bool]) -> float:
    marks = list(right)
    return 100.0 * sum(marks) / len(marks)


def _object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{text!r:.80} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{text!r:.80} is not a JSON object")
    return content
