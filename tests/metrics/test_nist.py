import math

import pytest

from loralab.errors import DataError
from loralab.metrics.nist import nist


def test_by_hand() -> None:
    """Single tokens: a is 2 of the 4, b and c 1 each. Pairs: after a, b and c come once in two."""
    information = (math.log2(4 / 2) + math.log2(4 / 1)) / 2 + math.log2(2 / 1)
    assert nist(["a b"], [["a b", "a c"]]) == pytest.approx(information)


def test_an_ngram_is_shared_as_often_as_in_one_reference() -> None:
    assert nist(["a a a a"], [["a b c d"]]) == pytest.approx(math.log2(4) / 4)
    assert nist(["a a"], [["a b", "a c"]]) == pytest.approx(math.log2(4 / 2) / 2)


def test_brevity_is_of_the_average_over_all_references() -> None:
    """Three references of 9 tokens in all make 3 a text, so 6; the average per text, summed, would be 8."""
    references = [["a b c d e f g"], ["x", "y"]]
    assert nist(["a b c d", "x y"], references) == pytest.approx(math.log2(9))
    assert nist(["a b c", "x"], references) == pytest.approx(math.log2(9) / 2)


def test_an_empty_output_and_references_without_a_token() -> None:
    assert nist([""], [["a b"]]) == 0.0
    assert nist(["a"], [["<skipped>"]]) == 0.0
    assert nist([""], [["<skipped>"]]) == 0.0


def test_punctuation_is_split_off_and_case_is_none() -> None:
    assert nist(["THE CAT."], [["the cat ."]]) == nist(["the cat ."], [["The cat."]]) > 1


def test_what_does_not_pair_up() -> None:
    with pytest.raises(DataError, match="no predictions"):
        nist([], [])
