"""Tables as HTML. A narrow page shows each row as a card of its own, with the columns' names in it: nothing is cut off
and nothing scrolls sideways.
"""

from collections.abc import Sequence
from typing import Any

from loralab.analysis.report.section import ResultTable
from loralab.analysis.report.words import is_number, number_text
from loralab.pictures.svg.drawing import escaped

SHORT = 12
"""Rows of a table that is shown at once; a longer one is folded."""
NARROW = 3
"""Columns that a telephone has room for."""


def table_html(table: ResultTable, short: int = SHORT) -> str:
    """The table, folded if it has more than `short` rows."""
    count = len(table.rows) + table.left_out
    more = f'<p class="source">and {table.left_out} more rows in the file</p>\n' if table.left_out else ""
    if count <= short:
        return f"<h3>{escaped(table.title)}</h3>\n{_table(table)}{more}"
    summary = f"{escaped(table.title)}: all {count} rows"
    return f"<details><summary>{summary}</summary>{_table(table)}{more}</details>\n"


def settings_html(settings: Sequence[tuple[str, Any]]) -> str:
    """Names and values, folded."""
    rows = [[name, value] for name, value in settings if value not in (None, "", False)]
    table = _table(ResultTable("", ("setting", "value"), rows))
    return f"<details><summary>The configuration</summary>{table}</details>\n" if rows else ""


def _table(table: ResultTable) -> str:
    numeric = [_is_numeric([row[at] for row in table.rows]) for at in range(len(table.columns))]
    head = "".join(
        f'<th role="columnheader"{_class(number)}>{escaped(column)}</th>'
        for column, number in zip(table.columns, numeric, strict=True)
    )
    rows = "".join(f'<tr role="row">{_cells(row, table.columns, numeric)}</tr>' for row in table.rows)
    stacked = " stacked" if len(table.columns) > NARROW else ""
    return (
        f'<div class="wide{stacked}"><table role="table"><thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{rows}</tbody></table></div>\n'
    )


def _is_numeric(values: Sequence[Any]) -> bool:
    """Of numbers, and of nothing where there is none."""
    known = [value for value in values if value is not None]
    return bool(known) and all(map(is_number, known))


def _cells(row: Sequence[Any], columns: Sequence[str], numeric: Sequence[bool]) -> str:
    return "".join(
        f'<td role="cell" data-column="{escaped(column)}"{_class(number)}><span>{number_text(value)}</span></td>'
        for value, column, number in zip(row, columns, numeric, strict=True)
    )


def _class(number: bool) -> str:
    return ' class="number"' if number else ""
