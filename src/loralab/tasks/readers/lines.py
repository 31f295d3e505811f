"""A file of JSON objects, one a line or all in one list, numbered."""

import json
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any, NoReturn

from loralab.errors import DataError, some
from loralab.tasks.readers.unpacked import decode_utf8, lone_half, read_bytes


@dataclass(frozen=True)
class Line:
    """One object of the file and where it stands."""

    path: Path
    number: int
    """Counted from 1."""
    content: dict[str, Any]
    unit: str = "line"
    """What is counted: the file's lines, or the elements of its list."""

    @property
    def is_of_table(self) -> bool:
        """Whether the keys are the names of columns."""
        return self.unit == "row" or ".csv" in self.path.suffixes or ".tsv" in self.path.suffixes

    def error(self, problem: str) -> DataError:
        """The error that says this line is wrong, and which it is."""
        return DataError(f"{self.path}, {self.unit} {self.number}: {problem}")

    def text(self, key: str) -> str:
        """The string under a key. Raises `DataError` where there is none, or something else."""
        value = self.value(key)
        if not isinstance(value, str):
            raise self.error(f"{key} is a {type(value).__name__}, {value!r:.60}; it must be a string")
        return value

    def value(self, key: str) -> Any:
        """What stands under a key. Raises `DataError` where there is no such key."""
        if key not in self.content:
            raise self.error(f"there is no {key}; the keys are {some(sorted(self.content), 12) or 'none'}")
        return self.content[key]


def read_lines(path: Path) -> list[Line]:
    """Every object of a UTF-8 file, which may start with a byte-order mark, end in blank lines, and be gzip.

    A file that begins with `[` is one list, of which each element is an object; any other has one object a line.
    Raises `NotFoundError` where there is no such file, and `DataError` with the line's or element's number for
    one that is not a JSON object, and for a file without any.
    """
    raw = read_bytes(path).rstrip()
    if not raw:
        raise DataError(f"{path} is empty; it needs one JSON object per line")
    return _elements(path, raw) if raw.lstrip().startswith(b"[") else _lines(path, raw)


def _lines(path: Path, raw: bytes) -> list[Line]:
    return [_line(path, number, line) for number, line in enumerate(raw.split(b"\n"), start=1)]


def _line(path: Path, number: int, raw: bytes) -> Line:
    where = f"{path}, line {number}"
    if not raw.strip():
        raise DataError(f"{where}: blank between two objects; remove the line")
    try:
        text = raw.decode("utf-8")
        content = _parse(text)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}): {text[:60]!r}; write one JSON object per line") from error
    return _object(path, number, content, "line")


def _elements(path: Path, raw: bytes) -> list[Line]:
    text = decode_utf8(str(path), raw)
    try:
        content = _parse(text)
    except JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}, column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); write one list of objects") from error
    if not content:
        raise DataError(f"{path} holds an empty list; it needs at least one object")
    return [_object(path, number, element, "element") for number, element in enumerate(content, start=1)]


def _object(path: Path, number: int, content: Any, unit: str) -> Line:
    if not isinstance(content, dict):
        raise DataError(f"{path}, {unit} {number}: a {type(content).__name__}, not an object; write JSON objects")
    if half := _lone_half_in(content):
        raise DataError(f"{path}, {unit} {number}: {half} is half of a character and stands alone; correct the text")
    return Line(path, number, content, unit)


def _lone_half_in(content: Any) -> str | None:
    """The first lone half of a character in any text of the content, keys included."""
    if isinstance(content, str):
        return lone_half(content)
    parts = [*content, *content.values()] if isinstance(content, dict) else content
    return next(filter(None, map(_lone_half_in, parts)), None) if isinstance(parts, list) else None


def _parse(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the key {', '.join(twice)} stands twice")
    return content
