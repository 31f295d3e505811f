from pathlib import Path
from typing import Any

import pytest

from loralab.errors import DataError
from loralab.tasks.own.labels import find_labelling, known_labelling, label_rows
from loralab.tasks.own.shapes import RawLabelled
from loralab.tasks.readers.lines import Line


def rows(*labels: Any) -> list[RawLabelled]:
    return [RawLabelled(Line(Path("d.jsonl"), n, {}), "text", None, label) for n, label in enumerate(labels, start=1)]


def labels_of(training: list[RawLabelled], others: list[RawLabelled]) -> list[Any]:
    return [each.label for each in label_rows(others, find_labelling(training))]


def test_words_and_integers_are_classes_in_order() -> None:
    assert labels_of(rows("no", "yes", "maybe"), rows("yes", "maybe")) == [2, 0]
    assert find_labelling(rows(10, 9, 10)).names == ("9", "10")
    assert labels_of(rows(10, 9), rows(10)) == [1]


def test_fractions_are_values_and_integers_among_them_too() -> None:
    labelling = find_labelling(rows(1, 2.5))
    assert (labelling.kind, labelling.names) == ("regression", ())
    values = labels_of(rows(1, 2.5), rows(3))
    assert values == [3.0]
    assert isinstance(values[0], float)


def test_known_classes_keep_their_order() -> None:
    labelled = label_rows(rows("a", "b"), known_labelling(["b", "a"]))
    assert [each.label for each in labelled] == [1, 0]


@pytest.mark.parametrize("bad", [True, None, ["a"], {}])
def test_what_is_no_label(bad: Any) -> None:
    with pytest.raises(DataError, match="line 2: the label is"):
        find_labelling(rows("a", bad))


@pytest.mark.parametrize("bad", ["", "  "])
def test_an_empty_cell_is_no_class(bad: str) -> None:
    with pytest.raises(DataError, match="line 2: the label is empty; give it one"):
        find_labelling(rows("a", bad, "b"))


def test_mixed_types_and_a_single_class() -> None:
    with pytest.raises(DataError, match="line 3: the label 1 is not of the first line's type"):
        find_labelling(rows("a", "b", 1))
    with pytest.raises(DataError, match="all labels are 'a'"):
        find_labelling(rows("a", "a"))


@pytest.mark.parametrize(
    "training, other", [(("a", "b"), "c"), ((1, 2), "1"), ((1, 2), 1.0), ((1, 2), True), ((0.5, 1), "x")]
)
def test_labels_outside_the_set(training: tuple[Any, ...], other: Any) -> None:
    with pytest.raises(DataError, match="line 1: the label"):
        labels_of(rows(*training), rows(other))


def test_a_value_that_is_not_finite() -> None:
    with pytest.raises(DataError, match="finite"):
        labels_of(rows(0.5, 1.0), rows(float("inf")))


@pytest.mark.parametrize("labels", [(0.0, 1.0), (1, 0.0, 2), (3.0, 1.5)])
def test_numbers_with_a_point_are_values_aloud_and_classes_if_asked(labels: tuple[Any, ...]) -> None:
    found = find_labelling(rows(*labels))
    assert found.kind == "regression"
    assert "they are values to be predicted" in found.notes[0]
    assert ("say kind classification" in found.notes[0]) == all(float(label).is_integer() for label in labels)
    asked = find_labelling(rows(*labels), "classification")
    assert (asked.kind, len(asked.names), asked.notes) == ("classification", len(labels), ())
    assert sorted(each.label for each in label_rows(rows(*labels), asked)) == list(range(len(labels)))


def test_a_whole_number_is_one_class_with_and_without_a_point() -> None:
    assert find_labelling(rows(0.0, 1, 1.0), "classification").names == ("0", "1")
    assert [each.label for each in label_rows(rows(1.0, 0), known_labelling(["0", "1"]))] == [1, 0]


def test_integers_are_values_if_asked_and_words_never() -> None:
    assert find_labelling(rows(1, 2), "regression").kind == "regression"
    with pytest.raises(DataError, match="line 1: the label 'a' is a word"):
        find_labelling(rows("a", "b"), "regression")


def test_a_number_beyond_all_floats() -> None:
    with pytest.raises(DataError, match="line 1: the label is 1000"):
        labels_of(rows(0.5, 1), rows(10**400))
