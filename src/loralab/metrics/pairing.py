"""Whether predictions and what they are compared with pair up."""

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


def present_references(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[str]]:
    """Each prediction's references without the blank ones, which stand for «no such reference».

    Raises `DataError` where predictions and references do not pair up, or all references of one are blank.
    """
    check_pairs(predictions, references)
    present = [[reference for reference in each if reference.strip()] for each in references]
    for number, each in enumerate(present, start=1):
        if not each:
            raise DataError(f"all references of prediction {number} are blank; give at least one that is not")
    return present
