"""CSV and TSV files as rows of named cells, numbered by line.

Cells are parted by what the file's name says, or by the sign that parts the header where that one leaves it whole:
spreadsheets of much of the world write CSV with semicolons. Cells are texts, quoted as CSV quotes them; one may hold
line breaks. Those of a column in `numbers` become numbers, where all of them are some.
"""

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from loralab.errors import DataError, some
from loralab.tasks.readers.lines import Line
from loralab.tasks.readers.unpacked import decode_utf8, read_bytes

OTHER_SEPARATORS = (";", "\t", ",", "|")
"""What parts a header that its file's own separator leaves whole, the likeliest first."""

LONGEST_CELL = 2**31 - 1
"""In characters; Python's own limit of 131,072 is for a table of short cells."""

Record = tuple[int, list[str]]
"""The line that a record begins on, and its cells."""


def read_delimited(path: Path, separator: str, numbers: Sequence[str] = ()) -> list[Line]:
    """Every row below the header. Raises `DataError` with the line for what is not a table with one header."""
    text = decode_utf8(str(path), read_bytes(path))
    records = list(_records(path, text, _separator(path, text, separator)))
    while records and not any(cell.strip() for cell in records[-1][1]):
        records.pop()
    if len(records) < 2:
        raise DataError(f"{path} has no rows; it needs a header and a row for each example")
    names = _header(path, *records[0])
    rows = [_row(path, names, *record) for record in records[1:]]
    for name in numbers:
        _make_numbers(rows, name)
    return rows


def _separator(path: Path, text: str, named: str) -> str:
    """The one that the header shows."""
    for each in (named, *OTHER_SEPARATORS):
        with contextlib.suppress(DataError):  # quotation marks beside what separates nothing
            _, names = next(_records(path, text, each), (1, []))
            if len(names) > 1:
                return each
    return named


def _records(path: Path, text: str, separator: str) -> Iterator[Record]:
    before = csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        start = 1
        for cells in reader:
            yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {start}: {error}; a cell that holds quotation marks stands in quotation marks itself, "
            'with "" for each'
        ) from error
    finally:
        csv.field_size_limit(before)


def _header(path: Path, number: int, names: list[str]) -> list[str]:
    spaced = [name for name in names if name != name.strip()]
    if spaced or len(set(names)) < len(names):
        what = f"there is space around the name {spaced[0]!r:.80}" if spaced else "a name stands twice"
        raise DataError(f"{path}, line {number}: the header is {some(map(repr, names), 12)}; {what}")
    return names


def _row(path: Path, names: list[str], number: int, cells: list[str]) -> Line:
    if not cells:
        raise DataError(f"{path}, line {number}: blank between two rows; remove the line")
    if len(cells) != len(names):
        raise DataError(f"{path}, line {number}: {len(cells)} cells, the header has {len(names)} ({some(names, 12)})")
    return Line(path, number, dict(zip(names, cells, strict=True)))


def _make_numbers(rows: Sequence[Line], name: str) -> None:
    """Integers if all cells of the column are, else floats if all are, else nothing changes."""
    cells = [row.content[name] for row in rows if name in row.content]
    for kind in (int, float):
        try:
            values = [kind(cell) for cell in cells]
        except ValueError:
            continue
        for row, value in zip(rows, values, strict=False):
            row.content[name] = value
        return
