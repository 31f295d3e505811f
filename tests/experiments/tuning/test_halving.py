"""Rungs, halves and budgets, as pure arithmetic."""

import math

from loralab.experiments.tuning.grid import TunedSetting
from loralab.experiments.tuning.halving import better_half, longest_within, rungs_of, shortest, steps_and_looks
from loralab.experiments.tuning.results import advice


def test_rungs_double_up_to_the_end() -> None:
    assert rungs_of(80, 8, 3) == (10, 20, 40, 80)
    assert rungs_of(81, 8, 3) == (11, 21, 41, 81)
    assert rungs_of(80, 2, 3) == (40, 80)
    assert rungs_of(80, 1, 3) == (80,)
    assert rungs_of(80, 8, 0) == (80,)


def test_the_better_half_is_rounded_up_and_what_failed_comes_last() -> None:
    assert better_half({"a": 2.0, "b": math.inf, "c": 1.0}) == ["c", "a"]
    assert better_half({"a": math.nan, "b": 3.0}) == ["b"]


def test_what_all_of_it_takes_is_counted() -> None:
    # 8 to step 10, 4 to 20, 2 to 40, 1 to 80
    assert steps_and_looks(80, 8, 3) == (80 + 40 + 40 + 40, 8 + 4 + 2 + 1)
    assert steps_and_looks(80, 8, 0) == (640, 8)


def test_the_longest_that_fits_does_and_one_step_more_does_not() -> None:
    longest = longest_within(100.0, 0.25, 0.5, 8, 3)
    steps, looks = steps_and_looks(longest, 8, 3)
    assert 0.25 * steps + 0.5 * looks <= 100
    steps, looks = steps_and_looks(longest + 1, 8, 3)
    assert 0.25 * steps + 0.5 * looks > 100
    assert longest_within(0.1, 1.0, 1.0, 8, 3) == 0
    assert shortest(8, 3) == 80
    assert shortest(1, 3) == 10


def test_advice_is_given_at_the_ends_alone() -> None:
    tried = [TunedSetting(rank, rate, "q,v") for rank in (1, 4, 16) for rate in (1e-4, 1e-3, 1e-2)]
    assert advice(TunedSetting(4, 1e-3, "q,v"), tried) == ()
    high = " ".join(advice(TunedSetting(16, 1e-2, "q,v"), tried))
    assert "--lrs 0.01,0.03,0.1" in high
    assert "--ranks 16,64" in high
    low = " ".join(advice(TunedSetting(1, 1e-4, "q,v"), tried))
    assert "--lrs 1e-05,3e-05,0.0001" in low
    assert "rank" not in low
