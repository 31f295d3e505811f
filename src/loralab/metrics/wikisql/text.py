"""WikiSQL's queries as SQL text, rendered in one form and read in many.

    SELECT COUNT("Column name") FROM table WHERE "Other" = 'value' AND "Number" > 20

A column is its name in double quotes, or `col3` by its index: where the name is not known, blank, or another
column's too. Text values are in single quotes, numbers bare; a quote inside quotes is doubled. Reading what was
rendered gives the same query.

Read as well: other casing and spacing, backquotes around names, double quotes around values, `COUNT name` without
brackets, any name for the table, a semicolon at the end, and names and values without quotes. Such a value ends
before the next `AND` with a column and an operator, and is a number if it is spelled as JSON's are. A column that
has no reading, or more than one, is an error.
"""

import math
import re
from collections.abc import Iterator, Sequence

from loralab.errors import DataError
from loralab.metrics.wikisql.query import AGGREGATIONS, OPERATORS, Condition, Query, Value

Header = Sequence[str]
"""The names of a table's columns; empty where they are not known."""

NAME = re.compile(r'"(?:[^"]|"")*"|`(?:[^`]|``)*`')
BY_INDEX = re.compile(r"col([0-9]{1,6})", re.IGNORECASE)
SELECT = re.compile(r"\s*SELECT\b\s*", re.IGNORECASE)
AGGREGATED = re.compile(rf"({'|'.join(AGGREGATIONS[1:])})(\s*\(\s*|\s+)", re.IGNORECASE)
FROM = rf"\s*\bFROM\b\s*(?:{NAME.pattern}|\S+)(?:\s+(?P<where>WHERE)\b\s*|\Z)"
AFTER_NAME = re.compile(FROM, re.IGNORECASE)
AFTER_CALL = re.compile(r"\s*\)" + FROM, re.IGNORECASE)
OPERATOR = re.compile(r"\s*(==?|>(?!=)|<(?![=>]))\s*")
VALUE = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*\"""")
AFTER_VALUE = re.compile(r"\s*(?:(?P<more>\bAND\b)\s*|\Z)", re.IGNORECASE)
AND = re.compile(r"\s+AND\s+", re.IGNORECASE)
INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
FRACTION = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
LONGEST_NAME = 1000
"""Characters that a name without quotes may have; the search for its end stops there."""


def column_text(column: int, header: Header) -> str:
    """The column as a query names it."""
    name = header[column] if column < len(header) else ""
    return _quoted(name, '"') if name.strip() and header.count(name) == 1 else f"col{column}"


def render_query(query: Query, header: Header = ()) -> str:
    """The query as SQL text."""
    column, aggregation = column_text(query.column, header), AGGREGATIONS[query.aggregation]
    selection = f"{aggregation}({column})" if aggregation else column
    conditions = " AND ".join(
        f"{column_text(each.column, header)} {OPERATORS[each.operator]} {_value_text(each.value)}"
        for each in query.conditions
    )
    return f"SELECT {selection} FROM table" + (f" WHERE {conditions}" if conditions else "")


def parse_query(text: str, header: Header = ()) -> Query:
    """The query that a text says. Raises `DataError` for one that says none, or not which columns it means."""
    text = text.strip().removesuffix(";").rstrip()
    start = SELECT.match(text)
    selection = _selection(text, start.end(), header) if start else None
    if selection is None:
        raise DataError(f"{text!r:.80} does not begin with SELECT, one of the columns, and FROM")
    aggregation, column, after = selection
    conditions = tuple(_conditions(text, after.end(), header)) if after["where"] else ()
    return Query(column, aggregation, conditions)


def _selection(text: str, start: int, header: Header) -> tuple[int, int, re.Match[str]] | None:
    """(aggregation, column, what is after it); None without exactly one reading. Brackets say that it is aggregated."""
    readings = []
    call = AGGREGATED.match(text, start)
    brackets = call is not None and "(" in call[2]
    if call and (aggregated := _column(text, call.end(), header, AFTER_CALL if brackets else AFTER_NAME)):
        readings.append((AGGREGATIONS.index(call[1].upper()), *aggregated))
    if not (brackets and readings) and (plain := _column(text, start, header, AFTER_NAME)):
        readings.append((0, *plain))
    return readings[0] if len(readings) == 1 else None


def _conditions(text: str, start: int | None, header: Header) -> Iterator[Condition]:
    while start is not None:
        condition = _column(text, start, header, OPERATOR)
        if condition is None:
            raise DataError(f"{text[start:]!r:.80} does not begin with one of the columns and =, > or <")
        column, operator = condition
        value, start = _value(text, operator.end(), header)
        yield Condition(column, OPERATORS.index(operator[1][0]), value)


def _column(text: str, start: int, header: Header, after: re.Pattern[str]) -> tuple[int, re.Match[str]] | None:
    """The column that is named from `start`, and the match of what must follow; None without exactly one reading."""
    marked = NAME.match(text, start) or BY_INDEX.match(text, start)
    rest = marked and after.match(text, marked.end())
    if marked and rest and (column := _marked(marked[0], header)) is not None:
        return column, rest
    readings = []
    for rest in after.finditer(text, start):
        if rest.start() - start > LONGEST_NAME:
            break
        if (column := _named(text[start : rest.start()], header)) is not None:
            readings.append((column, rest))
    return readings[0] if len(readings) == 1 else None


def _marked(word: str, header: Header) -> int | None:
    """The column of a name in quotes, or of an index."""
    if word[0] not in '"`':
        return _indexed(word, header)
    name = _unquoted(word)
    column = _named(name, header)
    return _indexed(name, header) if column is None else column


def _named(name: str, header: Header) -> int | None:
    """The one column of this name; if there is none, of the same but for casing and spacing. Blank is no name."""
    exact = [column for column, each in enumerate(header) if each == name]
    columns = exact or [column for column, each in enumerate(header) if _plain(each) == _plain(name)]
    return columns[0] if len(columns) == 1 and name.strip() else None


def _indexed(word: str, header: Header) -> int | None:
    match = BY_INDEX.fullmatch(word)
    return int(match[1]) if match and (not header or int(match[1]) < len(header)) else None


def _value(text: str, start: int, header: Header) -> tuple[Value, int | None]:
    """The value from `start`, and where the next condition begins, if there is one."""
    quoted = VALUE.match(text, start)
    if quoted and (after := AFTER_VALUE.match(text, quoted.end())):
        return _unquoted(quoted[0]), after.end() if after["more"] else None
    ends = (each for each in AND.finditer(text, start) if _column(text, each.end(), header, OPERATOR))
    end = next(ends, None)
    word = text[start : end.start() if end else None].strip()
    if not word or word[0] in "'\"":
        raise DataError(f"{text[start:]!r:.80} does not begin with a value, in quotes that end or without any")
    return _bare_value(word), end.end() if end else None


def _bare_value(word: str) -> Value:
    if INTEGER.fullmatch(word):
        return int(word)
    if FRACTION.fullmatch(word) and math.isfinite(float(word)):
        return float(word)
    return word


def _value_text(value: Value) -> str:
    return _quoted(value, "'") if isinstance(value, str) else repr(value)


def _quoted(text: str, mark: str) -> str:
    return mark + text.replace(mark, mark * 2) + mark


def _unquoted(word: str) -> str:
    mark = word[0]
    return word[1:-1].replace(mark * 2, mark)


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())
