"""A run's configuration in a few words."""

from typing import Any

from loralab.analysis.report.section import Content
from loralab.methods.table import rows_of


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
