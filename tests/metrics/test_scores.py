import pytest

from loralab.errors import DataError
from loralab.metrics.scores import check_pairs, present_references, within_bounds


def test_blank_references_are_left_out() -> None:
    assert present_references(["a", ""], [["x", "", " \t"], ["\n", "y"]]) == [["x"], ["y"]]


def test_all_blank_is_an_error() -> None:
    with pytest.raises(DataError, match="all references of prediction 2 are blank"):
        present_references(["a", "b"], [["x"], [" ", ""]])


@pytest.mark.parametrize("references", [[], [["x"], ["y"]], [[]]])
def test_what_does_not_pair_up(references: list[list[str]]) -> None:
    with pytest.raises(DataError):
        check_pairs(["a"], references)
    with pytest.raises(DataError):
        present_references(["a"], references)


@pytest.mark.parametrize(
    ("metric", "middle", "spread", "ends"),
    [
        ("accuracy", 10.0, 30.0, (0.0, 40.0)),
        ("accuracy", 95.0, 30.0, (65.0, 100.0)),
        ("matthews", 10.0, 30.0, (-20.0, 40.0)),
        ("loss", 1.0, 3.0, (0.0, 4.0)),
        ("perplexity", 2.0, 3.0, (1.0, 5.0)),
        ("accuracy", 101.0, 0.5, (100.5, 101.0)),
        ("cider", 9.9, 0.5, (9.4, 10.0)),
        ("reward_margin", -3.0, 1.0, (-4.0, -2.0)),
        ("unparsable", 150.0, 20.0, (130.0, 170.0)),
    ],
)
def test_an_interval_ends_where_its_metric_does(
    metric: str, middle: float, spread: float, ends: tuple[float, float]
) -> None:
    assert within_bounds(metric, middle, spread) == ends
