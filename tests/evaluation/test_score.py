import pytest

from loralab.errors import DataError
from loralab.evaluation.score import score_lines, score_outputs
from loralab.tasks.example import Example, LabelledExample
from loralab.tasks.task import ROUGE, Task

WRITE = Task("toy", "generation", {}, ROUGE)
CLASSES = Task("toy", "classification", {}, ("accuracy", "matthews"), ("no", "yes"))
VALUES = Task("toy", "regression", {}, ("pearson",))
LABELLED = [LabelledExample("", None, label) for label in (0, 1, 1, 0)]


def test_texts_against_all_references() -> None:
    examples = [Example("a", " b", ("b", "c d")), Example("e", " f")]
    assert score_outputs(WRITE, examples, ["c d", "x"]).metrics["rouge_1"] == 50.0


def test_classes_by_name_and_values() -> None:
    scored = score_outputs(CLASSES, LABELLED, ["no", "yes", "no", "no"])
    assert scored.metrics == {"accuracy": 75.0, "matthews": pytest.approx(57.735, abs=1e-3)}
    values = [LabelledExample("", None, value) for value in (1.0, 2.0, 3.0)]
    assert score_outputs(VALUES, values, ["2", "4.0", "6e0"]).metrics["pearson"] == pytest.approx(100.0)


def test_each_part_is_scored_apart_where_there_are_several() -> None:
    examples = [LabelledExample("", None, 1, part) for part in ("m", "mm", "m")]
    scored = score_outputs(CLASSES, examples, ["yes", "no", "no"])
    assert scored.metrics["accuracy"] == pytest.approx(100 / 3)
    assert {part: metrics["accuracy"] for part, metrics in scored.parts.items()} == {"m": 50.0, "mm": 0.0}
    assert score_outputs(CLASSES, examples[:1], ["yes"]).parts == {}


@pytest.mark.parametrize(
    "task, examples, outputs, problem",
    [
        (CLASSES, LABELLED[:1], ["maybe"], "output 1 is 'maybe'; it must be one of no, yes"),
        (VALUES, LABELLED[:1], ["nan"], "output 1 is 'nan'; it must be a finite number"),
        (CLASSES, LABELLED, ["no"], "1 outputs for 4 examples"),
        (CLASSES, [LabelledExample("", None, None)], ["no"], "1 of 1 examples have no label"),
    ],
)
def test_what_cannot_be_scored(task: Task, examples: list, outputs: list[str], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        score_outputs(task, examples, outputs)


def test_lines_are_for_texts() -> None:
    assert score_lines(WRITE, ["a b"], [("x", "a b")]).metrics["rouge_l"] == 100.0
    with pytest.raises(DataError, match="give its official file"):
        score_lines(CLASSES, ["no"], [("no",)])
