import pytest

from loralab.errors import DataError, NumericsError
from loralab.metrics.classification import accuracy, f1, matthews, pearson, spearman


def test_by_hand() -> None:
    predictions, references = [1, 1, 0, 0], [1, 0, 0, 1]
    assert accuracy(predictions, references) == 50.0
    assert f1([1, 1, 0, 0], [1, 0, 0, 0]) == pytest.approx(200 / 3)
    assert matthews(predictions, references) == 0.0
    assert matthews([1, 0], [0, 1]) == -100.0


def test_f1_of_three_classes_is_their_mean() -> None:
    assert f1([0, 1, 2, 2], [0, 1, 2, 1]) == pytest.approx(100 * (1 + 2 / 3 + 2 / 3) / 3)


def test_f1_where_class_1_never_occurs() -> None:
    assert f1([0, 0], [0, 0]) == 0.0


def test_correlations() -> None:
    assert pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(100)
    assert spearman([1, 2, 3], [1, 10, 100]) == pytest.approx(100)
    assert pearson([1, 2, 3], [1, 10, 100]) < 95
    assert spearman([3, 2, 1], [1, 2, 3]) == pytest.approx(-100)


@pytest.mark.parametrize("metric", [pearson, spearman, matthews])
@pytest.mark.parametrize("constant", [0, 1])
def test_a_constant_correlates_with_nothing(metric, constant: int) -> None:
    assert metric([constant] * 4, [0, 1, 1, 0]) == 0.0
    assert metric([0, 1, 1, 0], [constant] * 4) == 0.0
    assert metric([constant], [1]) == 0.0


def test_rounding_alone_is_constant() -> None:
    assert pearson([1.0, 1.0 + 2e-16, 1.0], [1, 2, 3]) == 0.0


def test_not_finite_and_not_paired() -> None:
    with pytest.raises(NumericsError, match="NaN"):
        pearson([1.0, float("nan")], [1, 2])
    with pytest.raises(DataError, match="1 predictions for 2 references"):
        accuracy([1], [1, 0])
