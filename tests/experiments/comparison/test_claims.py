import pytest

from experiments.invented import full, lora
from loralab.experiments.comparison.claims import Claim, judge_claims
from loralab.experiments.comparison.rows import Row


def claim(name: str, rows: list[Row], asked: str | None = None) -> Claim:
    return next(each for each in judge_claims(rows, asked) if each.name == name)


@pytest.mark.parametrize("values, held", [((81.0, 83.0), True), ((80.0, 80.0), True), ((70.0, 79.0), False)])
def test_lora_against_full(values: tuple[float, float], held: bool) -> None:
    found = claim("lora-matches-full", [lora(*values), full(79.0, 81.0)])
    assert found.held is held
    assert "0.100% of its parameters" in found.found
    assert "89.5" in found.paper


def test_a_loss_is_better_when_it_is_lower() -> None:
    rows = [lora(2.0, 2.1, metric="loss"), full(1.0, 1.1, metric="loss")]
    assert claim("lora-matches-full", rows).held is False
    assert claim("lora-matches-full", rows).found.startswith("loss of lora r=4, q,v 2.05 ± 0.0707 (2 seeds)")


def test_a_difference_within_the_noise_is_said_to_be() -> None:
    found = claim("lora-matches-full", [lora(70.0, 80.0), full(76.0, 78.0)])
    assert (found.held, "worse by 2, within the spread of seeds" in found.found) == (False, True)
    both = claim("lora-matches-full", [lora(25.0, 50.0), full(50.0, 62.5)])
    assert "worse by 18.8, within the spread of seeds" in both.found, "of both together, as reports and rankings say it"
    clear = claim("lora-matches-full", [lora(60.0, 61.0), full(76.0, 78.0)])
    assert "within" not in clear.found


def test_only_lora_of_at_most_one_percent_counts_and_the_best_of_it() -> None:
    rows = [lora(60.0), lora(65.0, rank=8), lora(99.0, rank=64, trainable_params=20_000), full(70.0)]
    found = claim("lora-matches-full", rows)
    assert (found.held, "lora r=8" in found.found, "best of 2" in found.found) == (False, True, True)
    large = claim("lora-matches-full", [lora(99.0, trainable_params=20_000), full(70.0)])
    assert (large.held, "trains 2.00% of full's" in large.found) == (None, True)


@pytest.mark.parametrize("rows", [[], [full(70.0)], [lora(70.0)], [lora(70.0, metrics={}), full(70.0, metrics={})]])
def test_what_was_not_run_is_not_judged(rows: list[Row]) -> None:
    for found in judge_claims(rows)[:3]:
        assert found.held is None
        assert found.found.startswith("not tested in this comparison: it needs")


def test_rows_with_the_most_examples_are_compared() -> None:
    rows = [
        lora(90.0, train_examples=100),
        full(50.0, train_examples=100),
        lora(60.0, train_examples=1000),
        full(70.0, train_examples=1000),
    ]
    assert claim("lora-matches-full", rows).held is False


@pytest.mark.parametrize("of_q, of_k, held", [(70.0, 69.0, True), (70.0, 75.0, False), (73.0, 60.0, False)])
def test_q_and_v_against_each_alone(of_q: float, of_k: float, held: bool) -> None:
    rows = [lora(73.0), lora(of_q, rank=8, targets="q_proj"), lora(of_k, rank=8, targets="key")]
    found = claim("q-and-v", rows)
    assert (found.held, "parameters 1,000, 1,000, 1,000" in found.found) == (held, True)


def test_q_and_v_needs_an_equal_budget() -> None:
    rows = [lora(73.0), lora(60.0, targets="q", trainable_params=500)]
    assert claim("q-and-v", rows).held is None
    rows.append(lora(65.0, rank=8, targets="q", trainable_params=900))
    assert claim("q-and-v", rows).held is True


def test_rank_one_is_enough_within_one_sd_of_the_best() -> None:
    best = lora(70.0, 72.0, rank=8)
    assert claim("rank-one", [lora(69.6, 70.0, rank=1), best]).held is True
    assert claim("rank-one", [lora(60.0, 70.0, rank=1), best]).held is False
    assert claim("rank-one", [lora(80.0, 90.0, rank=1), best]).held is True
    assert claim("rank-one", [lora(69.6, 70.0, rank=2), best]).held is None
    assert claim("rank-one", [lora(69.6, 70.0, rank=1, targets="q"), best]).held is None


def test_one_seed_shows_no_spread() -> None:
    found = claim("rank-one", [lora(69.0, rank=1), lora(70.0, rank=8)])
    assert (found.held, "one seed shows no spread" in found.found) == (None, True)


def test_a_failed_row_is_no_result() -> None:
    assert claim("lora-matches-full", [lora(70.0), full(60.0, seeds=(), metrics={})]).held is None


def test_the_metric_asked_for_decides() -> None:
    rows = [
        lora(metrics=lora(70.0).metrics | lora(2.0, metric="loss").metrics, seeds=(1,)),
        full(metrics=full(60.0).metrics | full(1.0, metric="loss").metrics, seeds=(1,)),
    ]
    assert claim("lora-matches-full", rows).held is True
    assert claim("lora-matches-full", rows, "loss").held is False
