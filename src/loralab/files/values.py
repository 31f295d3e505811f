"""Values of a JSON file, taken for what they must be: another kind of value is a TypeError that names the field."""

import reprlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Kind = TypeVar("Kind")
LARGEST_COUNT = 2**31


def is_count(value: object) -> bool:
    """A whole number from 1 that the side of a tensor can have."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < LARGEST_COUNT


def is_finite(value: object) -> bool:
    """A finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def texts(value: object, name: str) -> list[str]:
    """A list of texts."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _another(value, name, "a list of texts")
    return value


def count(value: object, name: str) -> int:
    """A whole number from 1."""
    if not isinstance(value, int) or not is_count(value):
        raise _another(value, name, "a whole number from 1")
    return value


def number(value: object, name: str) -> float:
    """A finite number."""
    if not isinstance(value, (int, float)) or not is_finite(value):
        raise _another(value, name, "a finite number")
    return value


def sizes(value: object, name: str) -> tuple[int, ...]:
    """A list of whole numbers from 0: a shape."""
    if not isinstance(value, list) or not all(is_count(each) or (each == 0 and type(each) is int) for each in value):
        raise _another(value, name, "a list of sizes")
    return tuple(value)


def _another(value: object, name: str, kind: str) -> TypeError:
    return TypeError(f"{name} is {reprlib.repr(value)}, not {kind}")


def _taken_for(kind: type[Kind], what: str) -> Callable[[object, str], Kind]:
    def take(value: object, name: str) -> Kind:
        if not isinstance(value, kind):
            raise _another(value, name, what)
        return value

    return take


text = _taken_for(str, "a text")
flag = _taken_for(bool, "true or false")
listing: Callable[[object, str], list[Any]] = _taken_for(list, "a list")
mapping: Callable[[object, str], Mapping[str, Any]] = _taken_for(dict, "an object")
