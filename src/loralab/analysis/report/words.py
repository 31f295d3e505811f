"""Values as a page shows them, escaped, and a run's configuration in a few words."""

import math
from typing import Any

from loralab.analysis.report.section import Content
from loralab.methods.table import rows_of
from loralab.pictures.svg.drawing import escaped

UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"
"""In the place of letters that no page shows, as a model of bytes writes them."""


def number_text(value: Any) -> str:
    """Thousands separated, four significant digits; a dash where there is nothing."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(number_text, value))
    if isinstance(value, dict):
        return ", ".join(f"{escaped(name)}: {number_text(each)}" for name, each in value.items())
    return escaped("".join(letter if letter.isprintable() or letter == "\n" else UNPRINTABLE for letter in str(value)))


def _float_text(value: float) -> str:
    if not math.isfinite(value):
        return "not a finite number"
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}").replace("-", "−")


def is_number(value: Any) -> bool:
    """Whether it stands at the right of its column."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def described(config: Content) -> str:
    """Its method and size: `lora, rank 8, q_proj,v_proj`."""
    method = str(config.get("method") or "?")
    sizes = {row.sized_by for row in rows_of(method)}
    parts = [
        method,
        f"rank {config.get('rank')}" if "rank" in sizes else "",
        f"size {config.get('size')}" if "size" in sizes else "",
        f"{config.get('prefix')}+{config.get('infix')} positions" if "positions" in sizes else "",
        value_text(config["targets"]) if config.get("targets") and "rank" in sizes else "",
    ]
    return ", ".join(part for part in parts if part)


def value_text(value: Any) -> str:
    """A setting's value as the command line has it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ",".join(map(value_text, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}: {value_text(each)}" for name, each in value.items())
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
