"""What a classifier's configuration calls its outputs."""

from collections.abc import Sequence
from typing import Any


def output_names(config: Any) -> tuple[str, ...] | None:
    """The names by transformers' `id2label`, in the order of the outputs, as text; None without or with gaps."""
    named = getattr(config, "id2label", None) or {}
    by_index = {int(index): str(name) for index, name in named.items()}
    if not by_index or sorted(by_index) != list(range(len(by_index))):
        return None
    return tuple(by_index[index] for index in sorted(by_index))


def are_placeholders(names: Sequence[str]) -> bool:
    """Whether these are transformers' LABEL_0, LABEL_1, … in order, which say nothing."""
    return list(names) == [f"LABEL_{number}" for number in range(len(names))]
