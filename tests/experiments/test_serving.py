"""`bench serve`: ratios are those within a round."""

import pytest

from loralab.errors import SpecError
from loralab.experiments.serving.config import ServingConfig
from loralab.experiments.serving.contenders import AnswerTimes
from loralab.experiments.serving.measure import ratios_of


def test_a_ratio_is_taken_within_each_round() -> None:
    rounds = [
        {"mixed": AnswerTimes(2.0, 100, 0.4), "base": AnswerTimes(1.0, 100, 0.1)},
        {"mixed": AnswerTimes(4.0, 100, 0.2), "base": AnswerTimes(4.0, 100, 0.1)},
        {"mixed": AnswerTimes(1.0, 100, 0.1), "base": AnswerTimes(0.9, 100, 0.1)},
    ]
    mixed, first = ratios_of(rounds)
    assert (mixed.name, mixed.median, mixed.least, mixed.most, mixed.met) == ("mixed_over_base", 0.9, 0.5, 1.0, True)
    assert (first.name, first.median, first.met) == ("first_token_mixed_over_base", 2.0, True)


def test_more_is_asked_of_compiled_kernels() -> None:
    rounds = [
        {name: AnswerTimes(1.0, tokens, 0.1) for name, tokens in {"mixed": 88, "base": 100, "base, eager": 80}.items()}
    ]
    for compiled, asked, met in ((False, 0.85, True), (True, 0.9, False)):
        ratios = {each.name: each for each in ratios_of([*rounds], compiled)}
        assert (ratios["mixed_over_base"].asked, ratios["mixed_over_base"].met) == (asked, met)
        assert ratios["base_over_eager"].median == 1.25


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"requests": 1}, "requests 1: at least 2"),
        ({"registered": 3}, "at least as many as requests"),
        ({"threads": 0}, "threads 0: at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ServingConfig(model="m", **changes).validate()  # type: ignore[arg-type]
