"""How an answer leaves the program: one JSON line, or lines and tables for people. Knows nothing of verbs."""

import json
import math
from pathlib import Path
from typing import Any

from loralab.cli.verb import Answer


def as_json(answer: Answer) -> str:
    """The answer on one line. A number that is NaN or infinite becomes null: JSON has no word for it."""
    return json.dumps(_plain(answer), ensure_ascii=False, allow_nan=False)


def show_answer(answer: Answer) -> None:
    """Print every key and value of the answer as aligned lines, nested ones with dots in their names."""
    lines = _flat(answer)
    width = max(len(name) for name in lines)
    for name, value in lines.items():
        print(f"{name.ljust(width)}  {readable(value)}")


def readable(value: Any) -> str:
    """A value for people: thousands separated, four significant digits, lists with commas."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(readable(each) for each in value)
    return str(value)


def readable_bytes(count: int) -> str:
    """A number of bytes in the unit that suits it, powers of 1000."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _flat(answer: Answer, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in answer.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _plain(value: Any) -> Any:
    """The value in JSON's own types. Raises TypeError for a type that has no obvious form there (our bug)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"an answer holds {type(value).__name__}, which JSON cannot: {value!r}")
