"""Figures on few examples are said to be loose, by as much as the binomial says."""

import pytest

from loralab.evaluation.few import few_examples


@pytest.mark.parametrize(("count", "said"), [(1, "±98"), (3, "±57"), (49, "±14")])
def test_few_examples_are_warned_about(count: int, said: str) -> None:
    (sentence,) = few_examples(count)
    assert f"measured on {count} example" in sentence
    assert said in sentence


def test_enough_examples_are_not() -> None:
    assert few_examples(50) == ()
