import pytest
from sacrebleu.metrics.ter import TER

from loralab.errors import DataError
from loralab.metrics.ter import corpus_ter, mean_ter

OUTPUTS = ["the cat sat on the mat", "a b c d e f", "dog", ""]
REFERENCES = [
    ["on the mat the cat sat", "a cat sat"],
    ["a b x d e", "f a b c d e", "q"],
    ["the dog barks", "it barks"],
    ["x y"],
]


def test_by_hand() -> None:
    assert corpus_ter(["a b c x"], [["a b c d e"]]) == pytest.approx(40)
    assert corpus_ter(["d e a b c"], [["a b c d e"]]) == pytest.approx(20)
    assert corpus_ter(["a b", "c"], [["a b"], ["d e"]]) == pytest.approx(100 * 2 / 4)
    assert mean_ter(["a b", "c"], [["a b"], ["d e"]]) == pytest.approx(100 * (0 + 1) / 2)


def test_a_corpus_divides_by_average_lengths_and_a_mean_by_the_nearest_one() -> None:
    references = [["a b", "a b c d"]]
    assert corpus_ter(["a b c"], references) == pytest.approx(100 * 1 / 3)
    assert mean_ter(["a b c"], references) == pytest.approx(100 * 1 / 4)


def test_sacrebleu_gives_the_same() -> None:
    by_place = [[each[place] if len(each) > place else None for each in REFERENCES] for place in range(3)]
    assert corpus_ter(OUTPUTS, REFERENCES) == pytest.approx(TER().corpus_score(OUTPUTS, by_place).score)


def test_a_perfect_output_an_empty_one_and_a_long_one() -> None:
    for ter in (corpus_ter, mean_ter):
        assert ter(["A b"], [["x", "a B"]]) == 0.0
        assert ter([""], [["a b c"]]) == 100.0
        assert ter(["a b c d"], [["x"]]) == 400.0


def test_blank_references_are_none() -> None:
    for ter in (corpus_ter, mean_ter):
        assert ter(["a b"], [["a c", "", " "]]) == 50.0
        with pytest.raises(DataError, match="blank"):
            ter(["a b"], [[""]])
