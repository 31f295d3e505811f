"""A JSON-lines file as numbered objects. It knows nothing of what the keys mean."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from loralab.errors import DataError, NotFoundError


@dataclass(frozen=True)
class Line:
    """One object of the file and where it stands."""

    path: Path
    number: int
    """Counted from 1."""
    content: dict[str, Any]

    def error(self, problem: str) -> DataError:
        """The error that says this line is wrong, and which it is."""
        return DataError(f"{self.path}, line {self.number}: {problem}")


def read_lines(path: Path) -> list[Line]:
    """Every line of a UTF-8 file, which may start with a byte-order mark and end in blank lines.

    Raises `NotFoundError` where there is no such file, and `DataError` with the line's number for one that is
    not a JSON object, and for a file without any.
    """
    if not path.is_file():
        raise NotFoundError(f"data file {path} does not exist; give the path of a JSONL file as --data")
    raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf").rstrip().split(b"\n")
    if raw == [b""]:
        raise DataError(f"{path} is empty; it needs one JSON object per line")
    return [Line(path, number, _parse(path, number, line)) for number, line in enumerate(raw, start=1)]


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    where = f"{path}, line {number}"
    if not line.strip():
        raise DataError(f"{where}: blank between two objects; remove the line")
    try:
        content = json.loads(line.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        shown = line.decode("utf-8")[:60]
        raise DataError(f"{where}: not JSON ({error}): {shown!r}; write one JSON object per line") from error
    if not isinstance(content, dict):
        raise DataError(f"{where}: a {type(content).__name__}, not an object; write one JSON object per line")
    return content


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the key {', '.join(twice)} stands twice")
    return content
