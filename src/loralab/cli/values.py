"""A field's value from what was written: the text of a flag, or a TOML value.

Text is read by the field's type in both places, so `targets = "q,v"` and `targets = ["q", "v"]` are the same
in a file. Every function raises ValueError; the caller says which flag or key it was.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from loralab.cli.fields import ConfigField, choices, is_list, is_mapping, members

OPENING, CLOSING = "([{", ")]}"


def read_value(field: ConfigField, written: Any) -> Any:
    """The value that was meant. The text `none`, and JSON's null, is None where the field may be None."""
    if field.optional and (written is None or (isinstance(written, str) and written.lower() == "none")):
        return None
    try:
        return _read_one_of(field.kinds, written)
    except ValueError:
        expected = " or ".join(dict.fromkeys(map(describe, field.kinds)))
        raise ValueError(f"expected {expected}, found {written!r}") from None


def split_commas(text: str) -> list[str]:
    """Split at the commas that stand outside brackets: `c_attn[q,v],c_proj` is two items."""
    items, depth = [""], 0
    for character in text:
        depth += (character in OPENING) - (character in CLOSING)
        if character == "," and depth <= 0:
            items.append("")
        else:
            items[-1] += character
    return [item.strip() for item in items if item.strip()]


def describe(kind: Any) -> str:
    """What a type accepts, in words."""
    if choices(kind):
        return "one of " + ", ".join(map(str, choices(kind)))
    if is_list(kind):
        return "items separated by commas" if _any_length(kind) else f"{len(get_args(kind))} items separated by a comma"
    if is_mapping(kind):
        return "pairs like name=value separated by commas"
    return {int: "a whole number", float: "a finite number", bool: "true or false", Path: "a path"}.get(kind, "text")


def _read_one_of(kinds: tuple[Any, ...], written: Any) -> Any:
    """The first type that can read it; what refuses most is asked first and text last."""
    for kind in sorted(kinds, key=_leniency):
        try:
            return _read(kind, written)
        except ValueError:
            continue
    _refuse(written)


def _leniency(kind: Any) -> int:
    return 0 if choices(kind) else {bool: 0, int: 1, float: 2, str: 4, Path: 4}.get(kind, 3)


def _read(kind: Any, written: Any) -> Any:
    if choices(kind):
        return _read_choice(kind, written)
    if is_list(kind):
        return _read_list(kind, written)
    if is_mapping(kind):
        return _read_mapping(kind, written)
    return READERS[kind](written)


def _read_choice(kind: Any, written: Any) -> Any:
    for choice in choices(kind):
        if str(choice) == str(written):
            return choice
    _refuse(written)


def _read_list(kind: Any, written: Any) -> Any:
    """A list, or a tuple: `tuple[str, ...]` of any length, `tuple[float, float]` of exactly that length."""
    items = split_commas(written) if isinstance(written, str) else written
    if not isinstance(items, list):
        _refuse(written)
    kinds = [get_args(kind)[0]] * len(items) if _any_length(kind) else list(get_args(kind))
    if len(kinds) != len(items):
        _refuse(written)
    return get_origin(kind)(_read_one_of(members(each), item) for each, item in zip(kinds, items, strict=True))


def _read_mapping(kind: Any, written: Any) -> dict[str, Any]:
    if isinstance(written, str):
        pairs = [item.rpartition("=") for item in split_commas(written)]
        written = {key.strip(): value.strip() for key, equals, value in pairs if equals or _refuse(written)}
    if not isinstance(written, dict):
        _refuse(written)
    return {key: _read_one_of(members(get_args(kind)[1]), _without_brackets(value)) for key, value in written.items()}


def _without_brackets(written: Any) -> Any:
    """`[1,2]`, as a list is written within a mapping, without its brackets."""
    is_list = isinstance(written, str) and written.startswith("[") and written.endswith("]")
    return written[1:-1] if is_list else written


def _read_bool(written: Any) -> bool:
    if isinstance(written, bool):
        return written
    return {"true": True, "false": False}[written] if written in ("true", "false") else _refuse(written)


def _read_int(written: Any) -> int:
    return int(written) if type(written) in (int, str) else _refuse(written)


def _read_float(written: Any) -> float:
    number = float(written) if type(written) in (int, float, str) else _refuse(written)
    return number if math.isfinite(number) else _refuse(written)


def _read_str(written: Any) -> str:
    return written if isinstance(written, str) else _refuse(written)


READERS: dict[Any, Callable[[Any], Any]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    str: _read_str,
    Path: lambda written: Path(_read_str(written)),
}


def _any_length(kind: Any) -> bool:
    return get_origin(kind) is list or get_args(kind)[-1] is Ellipsis


def _refuse(written: Any) -> NoReturn:
    raise ValueError(written)
