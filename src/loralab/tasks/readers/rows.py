"""One data file of any kind as rows, each with the place where it stands."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from loralab.errors import DataError
from loralab.tasks.readers.columnar import dataset_files, is_dataset, read_dataset, read_parquet
from loralab.tasks.readers.delimited import read_delimited
from loralab.tasks.readers.lines import Line, read_lines

NUMBERS = ("label", "weight")
"""Columns of a CSV or TSV file that hold numbers, where all of their cells are some."""

READERS: dict[str, Callable[[Path], list[Line]]] = {
    ".jsonl": read_lines,
    ".ndjson": read_lines,
    ".json": read_lines,
    ".csv": partial(read_delimited, separator=",", numbers=NUMBERS),
    ".tsv": partial(read_delimited, separator="\t", numbers=NUMBERS),
    ".parquet": read_parquet,
}
"""A name's ending -> what reads the file, which may be packed with gzip, with .gz at the end of its name."""


OFFICE = (".xls", ".xlsx", ".ods", ".numbers")


def ending_of(path: Path) -> str | None:
    """The key of `READERS` for a file of this name; None where there is none."""
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    if endings[-1:] == [".gz"]:
        endings.pop()
    return endings[-1] if endings and endings[-1] in READERS else None


def read_rows(path: Path) -> list[Line]:
    """Every row of a file, of which one with an unknown ending is JSON lines; or of the folder of a data set on disk.

    Raises `NotFoundError` for a path that is not there, and `DataError`, with the row where it is one's, for content
    that cannot be read or written again.
    """
    if path.suffix.lower() in OFFICE:
        raise DataError(f"{path}: spreadsheets are not read; save it as CSV")
    return read_dataset(path) if is_dataset(path) else READERS[ending_of(path) or ".jsonl"](path)


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that `read_rows` reads for this path."""
    return dataset_files(path) if is_dataset(path) else (path,)
