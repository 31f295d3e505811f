"""GLUE's tab-separated files as rows of named cells.

There is no quoting: a quotation mark is a quotation mark, and every line is a row. MRPC's files begin with a byte-order
mark, and CoLA's have no header.
"""

from collections.abc import Sequence
from pathlib import Path

from loralab.errors import DataError
from loralab.tasks.outputs import read_text, text_lines
from loralab.tasks.readers.lines import Line

MOST_TORN = 0.001
"""Share of rows with too few cells up to which they are a known flaw of the file, not a broken file."""


def read_table(path: Path, columns: Sequence[str] = (), *, torn_rows: bool = False) -> list[Line]:
    """All rows of a file with the given columns, or with those of its header; cells are without surrounding space.

    A file with `columns` may yet have a header (CoLA's test file has one, and other columns): one whose first cell is
    "index". With `torn_rows` those of too few cells are left out, up to `MOST_TORN` of all. Raises `DataError`
    with the line for any other row that is not as wide as the header.
    """
    lines = text_lines(read_text(path))
    if not lines or lines == [""]:
        raise DataError(f"{path} is empty; download it again")
    headed = not columns or lines[0].startswith("index\t")
    names = [cell.strip() for cell in lines[0].split("\t")] if headed else list(columns)
    rows, torn = [], 0
    for number, line in enumerate(lines[headed:], start=1 + headed):
        cells = [cell.strip() for cell in line.split("\t")]
        if torn_rows and len(cells) < len(names):
            torn += 1
        else:
            rows.append(Line(path, number, _named(path, number, names, cells)))
    if torn > MOST_TORN * len(lines):
        raise DataError(f"{path}: {torn} of {len(lines)} rows have too few cells; download it again")
    return rows


def _named(path: Path, number: int, names: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) != len(names):
        raise DataError(
            f"{path}, line {number}: {len(cells)} cells, expected {len(names)} ({', '.join(names)}) parted by tabs; "
            "give GLUE's own file, which has no quoting"
        )
    return dict(zip(names, cells, strict=True))
