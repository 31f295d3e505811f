"""Values of a JSON file, taken for what they must be: another kind of value is a TypeError that names the field."""

import reprlib
import sys
from collections.abc import Mapping
from typing import Any

LARGEST_COUNT = 2**31


def is_count(value: object) -> bool:
    """A whole number from 1 that the side of a tensor can have."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < LARGEST_COUNT


def is_finite(value: object) -> bool:
    """A finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def text(value: object, name: str) -> str:
    """A text."""
    if not isinstance(value, str):
        raise _another(value, name, "a text")
    return value


def texts(value: object, name: str) -> list[str]:
    """A list of texts."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _another(value, name, "a list of texts")
    return value


def flag(value: object, name: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise _another(value, name, "true or false")
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


def mapping(value: object, name: str) -> Mapping[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise _another(value, name, "an object")
    return value


def listing(value: object, name: str) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise _another(value, name, "a list")
    return value


def _another(value: object, name: str, kind: str) -> TypeError:
    return TypeError(f"{name} is {reprlib.repr(value)}, not {kind}")
