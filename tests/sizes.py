"""One set of sizes for tests that try every method: each takes those that it has."""

from typing import Any

from loralab.methods.settings import TAKERS
from loralab.methods.table import rows_of

ASKED = ("trainable_token_indices", "invocation_tokens", "init")
"""Settings whose refusal is itself tested so."""


def that_count(values: dict[str, Any]) -> dict[str, Any]:
    """The settings without those that `values["method"]` does not take, and would be refused for."""
    taken = {name for row in rows_of(values.get("method", "lora")) for name in row.takes}
    return {name: value for name, value in values.items() if name not in TAKERS - taken or name in ASKED}
