import pytest

from loralab.errors import DataError
from loralab.metrics.rouge import rouge_1, rouge_2, rouge_l


def test_by_hand() -> None:
    prediction, reference = ["the cat sat"], [["the cat on mats sat"]]
    assert rouge_1(prediction, reference) == pytest.approx(100 * 2 * (3 / 3) * (3 / 5) / (3 / 3 + 3 / 5))
    assert rouge_2(prediction, reference) == pytest.approx(100 * 2 * (1 / 2) * (1 / 4) / (1 / 2 + 1 / 4))
    assert rouge_l(["sat cat the"], [["the cat sat"]]) == pytest.approx(100 / 3)


def test_the_best_reference_counts_and_texts_are_averaged() -> None:
    assert rouge_l(["a b", "a b"], [["c d", "a b"], ["c d"]]) == 50.0


def test_same_text_is_100_and_an_empty_one_0() -> None:
    assert rouge_l(["Return it."], [["return IT"]]) == 100.0
    assert rouge_1([""], [["return it"]]) == 0.0


@pytest.mark.parametrize("predictions, references", [(["a"], []), ([], []), (["a"], [[]])])
def test_what_does_not_pair_up(predictions: list[str], references: list[list[str]]) -> None:
    with pytest.raises(DataError):
        rouge_l(predictions, references)
