"""Labels as a file gives them -> classes with indices, or values. It knows nothing of files.

Strings or integers are classes, in sorted order; numbers of which at least one has a fraction or a decimal
point are values to be predicted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loralab.errors import DataError
from loralab.tasks.definition import Kind
from loralab.tasks.example import LabelledExample
from loralab.tasks.json_shapes import RawLabelled


@dataclass(frozen=True)
class Labelling:
    """What the labels of a data set are."""

    kind: Kind
    names: tuple[str, ...]
    """The classes in the order of their indices; empty for a regression."""
    type: type
    """The type that every label must have: str, int (also for classes), float (integers are welcome), or
    object where only the names are known."""


def known_labelling(names: Sequence[str]) -> Labelling:
    """The classes that a trained model has already."""
    return Labelling("classification", tuple(names), object)


def find_labelling(rows: Sequence[RawLabelled]) -> Labelling:
    """What the labels of these rows, the training data, are.

    Raises `DataError` with the line for a label that is none, or of another type than the first; and where
    there are fewer than two classes.
    """
    for row in rows:
        if type(row.label) not in (str, int, float):
            raise row.line.error(f"the label is {row.label!r}; it must be a string or a number")
    kind = str if isinstance(rows[0].label, str) else float
    for row in rows:
        if isinstance(row.label, str) != (kind is str):
            raise row.line.error(f"the label {row.label!r} is not of the first line's type; use strings or numbers")
    if any(isinstance(row.label, float) for row in rows):
        return Labelling("regression", (), float)
    found = sorted({row.label for row in rows})
    if len(found) < 2:
        raise DataError(f"{rows[0].line.path}: all labels are {found[0]!r}; a classification needs two classes")
    return Labelling("classification", tuple(str(label) for label in found), type(found[0]))


def label_rows(rows: Sequence[RawLabelled], labelling: Labelling) -> tuple[LabelledExample, ...]:
    """The rows as examples with a class's index or a value.

    Raises `DataError` with the line for a label outside the classes, of another type, or not finite.
    """
    index = {name: place for place, name in enumerate(labelling.names)}
    read = _value if labelling.kind == "regression" else _class
    return tuple(LabelledExample(row.text_a, row.text_b, read(row, labelling, index)) for row in rows)


def _value(row: RawLabelled, labelling: Labelling, index: dict[str, int]) -> float:
    if type(row.label) not in (int, float) or not math.isfinite(row.label):
        raise row.line.error(f"the label is {row.label!r}; it must be a finite number as in the training data")
    return float(row.label)


def _class(row: RawLabelled, labelling: Labelling, index: dict[str, int]) -> int:
    right_type = isinstance(row.label, labelling.type) and type(row.label) in (str, int)
    if not right_type or str(row.label) not in index:
        classes = ", ".join(labelling.names)
        raise row.line.error(f"the label {row.label!r} is not one of the training data's ({classes}); correct it")
    return index[str(row.label)]
