import pytest

from loralab.pictures.ticks import linear_ticks, log_ticks, short_count


@pytest.mark.parametrize(
    ("count", "words"),
    [(1, "1"), (768, "768"), (999.6, "1k"), (26_000, "26k"), (74_123, "74.1k"), (1_200_000, "1.2M"), (175e9, "175B")],
)
def test_counts_are_read_at_a_glance(count: float, words: str) -> None:
    assert short_count(count) == words


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (10_000, 2e6, [1e4, 3e4, 1e5, 3e5, 1e6]),
        (20_000, 130_000, [2e4, 5e4, 1e5]),
        (21_000, 24_000, [22_000, 24_000]),
        (1, 1e12, [1, 1e3, 1e6, 1e9, 1e12]),
        (0.2, 0.5, [0.2, 0.5]),
    ],
)
def test_a_scale_of_ratios_has_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-20, 100, [-20, 0, 20, 40, 60, 80, 100]),
        (3, 3, [3]),
        (5.08, 5.58, [5.1, 5.2, 5.3, 5.4, 5.5]),
    ],
)
def test_a_linear_scale_has_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert linear_ticks(low, high, 7) == pytest.approx(ticks)


def test_small_numbers_keep_their_digits() -> None:
    assert linear_ticks(0, 3e-13) == pytest.approx([0, 1e-13, 2e-13, 3e-13], abs=1e-20)
