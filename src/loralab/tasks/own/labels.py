"""Labels as a file gives them -> classes with indices, or values.

Strings or integers are classes, in sorted order; numbers of which at least one has a fraction or a decimal
point are values to be predicted. Which of the two numbers are can be said instead (`kind`): then whole numbers are the
same class with and without a decimal point.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from loralab.errors import DataError
from loralab.tasks.example import LabelledExample
from loralab.tasks.own.shapes import RawLabelled
from loralab.tasks.task import Kind

LARGEST = sys.float_info.max
"""A value's largest size."""


@dataclass(frozen=True)
class Labelling:
    """What the labels of a data set are."""

    kind: Kind
    names: tuple[str, ...]
    """The classes in the order of their indices; empty for a regression."""
    type: type
    """The type that every label must have: str, int (also for classes), float (integers are welcome), or
    object where only the names are known."""
    notes: tuple[str, ...] = ()
    """What may surprise."""


def known_labelling(names: Sequence[str]) -> Labelling:
    """The classes that a trained model has already."""
    return Labelling("classification", tuple(names), object)


def choose_labelling(rows: Sequence[RawLabelled], labels: Sequence[str] | None, kind: Kind | None) -> Labelling:
    """The known classes where there are some; else what the labels of the rows are."""
    if labels is not None and kind != "regression":
        return known_labelling(labels)
    return find_labelling(rows, kind)


def find_labelling(rows: Sequence[RawLabelled], kind: Kind | None = None) -> Labelling:
    """What the labels of these rows, the training data, are; numbers as `kind` says.

    Raises `DataError` with the line for an invalid or empty label, or one of another type than the first; and where
    there are fewer than two classes.
    """
    for row in rows:
        if type(row.label) not in (str, int, float):
            raise row.line.error(f"the label is {row.label!r:.60}; it must be a string or a number")
        if isinstance(row.label, str) and not row.label.strip():
            raise row.line.error("the label is empty; give it one, or leave the row out")
    words = isinstance(rows[0].label, str)
    for row in rows:
        if isinstance(row.label, str) != words:
            raise row.line.error(f"the label {row.label!r:.80} is not of the first line's type; use strings or numbers")
    pointed = any(isinstance(row.label, float) for row in rows)
    if kind == "regression" or (pointed and kind is None):
        return _values(rows, words, kind)
    classes = sorted({row.label for row in rows})
    if len(classes) < 2:
        raise DataError(f"{rows[0].line.path}: all labels are {classes[0]!r:.80}; a classification needs two classes")
    names = tuple(_name(label) for label in classes)
    return Labelling("classification", names, float if pointed else type(classes[0]))


def _values(rows: Sequence[RawLabelled], words: bool, kind: Kind | None) -> Labelling:
    if words:
        raise rows[0].line.error(f"the label {rows[0].label!r:.80} is a word; a regression needs numbers")
    values = sorted({row.label for row in rows})
    whole = kind is None and all(float(label).is_integer() for label in values)
    shown = ", ".join(map(str, values[:4])) + (", …" if len(values) > 4 else "")
    note = f"the labels are numbers with a decimal point ({shown}): they are values to be predicted, not classes"
    hint = "; though all are whole: if they are classes, say kind classification" if whole else ""
    return Labelling("regression", (), float, () if kind else (note + hint,))


def _name(label: object) -> str:
    """A class's name: a whole number's is the same with a decimal point."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def label_rows(rows: Sequence[RawLabelled], labelling: Labelling) -> tuple[LabelledExample, ...]:
    """The rows as examples with a class's index or a value.

    Raises `DataError` with the line for a label outside the classes, of another type, or not finite.
    """
    index = {name: place for place, name in enumerate(labelling.names)}
    read = _value if labelling.kind == "regression" else _class
    return tuple(
        LabelledExample(row.text_a, row.text_b, read(row, labelling, index), weight=row.weight) for row in rows
    )


def _value(row: RawLabelled, labelling: Labelling, index: dict[str, int]) -> float:
    if type(row.label) not in (int, float) or not -LARGEST <= row.label <= LARGEST:
        raise row.line.error(f"the label is {row.label!r:.60}; it must be a finite number as in the training data")
    return float(row.label)


def _class(row: RawLabelled, labelling: Labelling, index: dict[str, int]) -> int:
    welcome = (int, float) if labelling.type is float else labelling.type
    right_type = isinstance(row.label, welcome) and type(row.label) in (str, int, float)
    if not right_type or _name(row.label) not in index:
        classes = ", ".join(labelling.names)
        raise row.line.error(f"the label {row.label!r:.60} is not one of the training data's ({classes}); correct it")
    return index[_name(row.label)]
