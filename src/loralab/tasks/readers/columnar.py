"""Tables that are kept by column, as rows: Parquet files, and folders that `datasets` wrote with `save_to_disk`.

What is null is left out: a column table has every column in every row. A class that is kept as an index beside the
list of its names (`datasets`' ClassLabel) becomes its name.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loralab.errors import DataError, NotFoundError, first_line
from loralab.extras import lazy, require
from loralab.tasks.readers.lines import Line
from loralab.tasks.readers.unpacked import read_bytes

pyarrow = lazy("pyarrow", "data")
ipc, parquet = lazy("pyarrow.ipc", "data"), lazy("pyarrow.parquet", "data")

STATE = "state.json"
"""What marks the folder of a data set on disk."""

ARROW_ERRORS = (OSError, ValueError, KeyError, TypeError, NotImplementedError)
"""What pyarrow's own errors are, too."""


def is_dataset(path: Path) -> bool:
    """Whether a path is the folder of one data set on disk."""
    return (path / STATE).is_file()


def read_parquet(path: Path) -> list[Line]:
    """The rows of a Parquet file. Raises `DataError` for another file, or an empty one."""
    require("data", f"reading {path}")
    raw = read_bytes(path)
    try:
        return _rows(path, parquet.read_table(pyarrow.BufferReader(raw)))
    except ARROW_ERRORS as error:
        raise DataError(f"{path} cannot be read as Parquet ({first_line(error)})") from error


def read_dataset(folder: Path) -> list[Line]:
    """The rows of a data set on disk. Raises `DataError` for a folder that holds another thing, or nothing."""
    require("data", f"reading {folder}")
    parts = [(path, read_bytes(path)) for path in dataset_files(folder)]
    try:
        tables = [ipc.open_stream(pyarrow.BufferReader(raw)).read_all() for _, raw in parts]
        return _rows(folder, pyarrow.concat_tables(tables))
    except ARROW_ERRORS as error:
        raise DataError(f"{folder} cannot be read as a data set on disk ({first_line(error)})") from error


def dataset_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold the rows, in their order."""
    try:
        state = json.loads(read_bytes(folder / STATE))
        names = [each["filename"] for each in state["_data_files"]]
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{folder / STATE} is not what datasets' save_to_disk writes ({error!r})") from error
    if state.get("_indices_data_files"):
        raise DataError(f"{folder} is kept with a list of indices; save it again with flatten_indices() before")
    if not names:
        raise DataError(f"{folder} holds no rows; it needs at least one")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise NotFoundError(f"the data set {folder} lacks {', '.join(missing)}; copy the whole folder")
    return tuple(folder / name for name in names)


def _rows(path: Path, table: Any) -> list[Line]:
    if not table.num_rows:
        raise DataError(f"{path} holds no rows; it needs at least one")
    classes = _classes((table.schema.metadata or {}).get(b"huggingface"))
    rows = enumerate(table.to_pylist(), start=1)
    return [Line(path, number, _named(row, classes), "row") for number, row in rows]


def _named(row: Mapping[str, Any], classes: Mapping[str, list[str]]) -> dict[str, Any]:
    """A row without nulls and with the names of its classes; an index outside them (-1: not known) stays."""
    named = {
        key: classes[key][value] if key in classes and value in range(len(classes[key])) else value
        for key, value in row.items()
    }
    return dict(_without_nulls(named))


def _classes(described: bytes | None) -> dict[str, list[str]]:
    """The columns that hold the indices of classes, and these classes' names."""
    features = json.loads(described).get("info", {}).get("features", {}) if described else {}
    return {
        name: each["names"] for name, each in features.items() if isinstance(each, dict) and "ClassLabel" in str(each)
        and isinstance(each.get("names"), list)
    }  # fmt: skip


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value
