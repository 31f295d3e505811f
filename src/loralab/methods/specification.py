"""What the specification of every method has in common: its fields are checked when it is made.

First that each holds a value of the kind that it is annotated with, whoever wrote it: a caller, a command line, or a
file of another machine. Then, by the method's own `problems`, that the values go together.
"""

import reprlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from loralab.errors import SpecError
from loralab.files.values import is_count, is_finite

_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", NoneType: "None"}


@dataclass(frozen=True)
class Specification:
    """The fields of a method. SpecError, naming all that is wrong, where they are not valid."""

    def __post_init__(self) -> None:
        problems = self._of_another_kind() or self.problems()
        if problems:
            raise SpecError(f"invalid {type(self).__name__}: " + "; ".join(problems))

    def problems(self) -> list[str]:
        """What is wrong with fields that hold values of the right type, as sentences."""
        return []

    def _of_another_kind(self) -> list[str]:
        hints = get_type_hints(type(self))
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return [
            f"{name} is {reprlib.repr(value)} and must be {_kind(hints[name])}"
            for name, value in values.items()
            if not _fits(value, hints[name])
        ]


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of an annotated kind. A truth value is no number; a text is no sequence."""
    if hint in _PLAIN:
        wanted = (int, float) if hint is float else hint
        return isinstance(value, wanted) and (hint is bool or not isinstance(value, bool))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(_fits(value, type(each)) for each in arguments)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _fits(key, arguments[0]) and _fits(each, arguments[1]) for key, each in value.items()
        )
    if origin is Sequence:
        if not isinstance(value, Collection) or isinstance(value, (str, bytes, Mapping)):
            return False
        return all(_fits(each, arguments[0]) for each in value)
    return any(_fits(value, each) for each in arguments)


def _kind(hint: Any) -> str:
    """An annotation in words."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(str(each) for each in arguments)}"
    if origin is Mapping:
        return f"a mapping to {_kind(arguments[1])} each"
    if origin is Sequence:
        return f"a list, {_kind(arguments[0])} each"
    return " or ".join(_kind(each) for each in arguments)


# -- checks of values, for `problems` --------------------------------------------------------------------------


def count_problems(spec: Specification, *names: str) -> list[str]:
    """For fields that must be whole numbers from 1: what is wrong, as sentences."""
    values = {name: getattr(spec, name) for name in names}
    return [
        f"{name} is {value!r} and must be a whole number from 1"
        for name, value in values.items()
        if not is_count(value)
    ]


def number_problems(spec: Specification, *names: str) -> list[str]:
    """For fields that must be finite numbers."""
    values = {name: getattr(spec, name) for name in names}
    return [
        f"{name} is {value!r} and must be a finite number" for name, value in values.items() if not is_finite(value)
    ]


def dropout_problems(spec: Specification) -> list[str]:
    """For the dropout of a low-rank path."""
    dropout = getattr(spec, "dropout")  # noqa: B009  those that have one have no class in common that says so
    return [] if 0 <= dropout < 1 else [f"dropout is {dropout!r} and must be in [0, 1)"]


def choice_problems(spec: Specification, name: str, choices: Collection[str]) -> list[str]:
    """For a field that is one of several words."""
    value = getattr(spec, name)
    return [] if value in choices else [f"{name} is {value!r} and must be one of {', '.join(choices)}"]
