"""Whether predictions and what they are compared with pair up. It knows nothing of any metric."""

from collections.abc import Sequence
from typing import Any

from loralab.errors import DataError


def check_pairs(predictions: Sequence[Any], references: Sequence[Any]) -> None:
    """Raises `DataError` for different numbers of both, for none at all, or for an empty list of references."""
    if len(predictions) != len(references):
        raise DataError(f"{len(predictions)} predictions for {len(references)} references; give one for each")
    if not predictions:
        raise DataError("no predictions to score; give at least one")
    for number, reference in enumerate(references, start=1):
        if isinstance(reference, list | tuple) and not reference:
            raise DataError(f"prediction {number} has no reference to compare with; give at least one")
