import pytest

from loralab.errors import DataError
from loralab.metrics.scores import check_pairs, present_references


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
