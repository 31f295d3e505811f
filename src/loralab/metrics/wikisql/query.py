"""WikiSQL's queries as data: one column, perhaps aggregated, of the rows under some conditions.

Columns are indices into the table's header. The structure is that of the official files: {"sel", "agg", "conds"},
each condition a list of column, operator and value. It knows nothing of SQL text, tables and files.
"""

import math
from dataclasses import dataclass
from typing import Any

from loralab.errors import DataError

AGGREGATIONS = ("", "MAX", "MIN", "COUNT", "SUM", "AVG")
OPERATORS = ("=", ">", "<")
"""In the order of their official indices."""

Value = str | int | float

LogicalForm = tuple[int, int, frozenset[tuple[int, int, str]]]


@dataclass(frozen=True)
class Condition:
    """What a column's value must be."""

    column: int
    operator: int
    """Index into `OPERATORS`."""
    value: Value


@dataclass(frozen=True)
class Query:
    """A query of one table; all conditions must hold."""

    column: int
    aggregation: int = 0
    """Index into `AGGREGATIONS`."""
    conditions: tuple[Condition, ...] = ()

    def logical_form(self) -> LogicalForm:
        """What the official evaluator compares: conditions as a set, their values as lower-cased text."""
        conditions = frozenset((each.column, each.operator, str(each.value).lower()) for each in self.conditions)
        return self.column, self.aggregation, conditions

    def official(self) -> dict[str, Any]:
        """The structure of the official files."""
        conditions = [[each.column, each.operator, each.value] for each in self.conditions]
        return {"sel": self.column, "agg": self.aggregation, "conds": conditions}


def read_query(content: Any) -> Query:
    """A query from the official structure. Raises `DataError` for anything else."""
    if not isinstance(content, dict) or not {"sel", "agg", "conds"} <= content.keys():
        raise DataError(f"a query must be an object with sel, agg and conds, found {content!r:.80}")
    if not isinstance(content["conds"], list):
        raise DataError(f"conds must be a list, found {content['conds']!r:.80}")
    conditions = tuple(_condition(each) for each in content["conds"])
    return Query(_index(content["sel"], "sel"), _index(content["agg"], "agg", len(AGGREGATIONS)), conditions)


def _condition(content: Any) -> Condition:
    if not isinstance(content, list | tuple) or len(content) != 3:
        raise DataError(f"a condition must be a list of column, operator and value, found {content!r:.80}")
    column, operator, value = content
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number and not isinstance(value, str):
        raise DataError(f"a condition's value must be a string or a finite number, found {value!r:.80}")
    return Condition(_index(column, "a column"), _index(operator, "an operator", len(OPERATORS)), value)


def _index(value: Any, name: str, count: int | None = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0 or (count is not None and value >= count):
        below = "" if count is None else f" below {count}"
        raise DataError(f"{name} must be an index{below}, found {value!r:.80}")
    return value
