from collections.abc import Sequence

import pytest

from loralab.experiments.latency.config import InputSize
from loralab.experiments.latency.contenders import Contender, contenders
from loralab.experiments.latency.rows import Ratio, Timing, noise_of, pairwise_ratio, paper_ratio, rows_of

AMONG = contenders(rank=4, sizes=(10, 250))


def invented_rows(setting: InputSize, base: Sequence[float], factors: dict[str, float]) -> list[Timing]:
    """Rounds in which the machine has the speeds `base`, and each contender takes its factor of that."""
    rounds = [{each: time * factors.get(each.name, 1.0) for each in AMONG} for time in base]
    parameters = {each: 44_000 * each.size if each.name.startswith("adapter") else each.size for each in AMONG}
    return rows_of(setting, rounds, parameters)


def test_ratios_are_taken_within_a_round() -> None:
    rounds = [{"base": 100.0, "x": 110.0}, {"base": 300.0, "x": 345.0}, {"base": 50.0, "x": 60.0}]
    found = pairwise_ratio(rounds, "x", "base")
    assert found.median == pytest.approx(1.15), "not the ratio of the medians, 1.10"
    assert (found.low, found.high) == (pytest.approx(1.125), pytest.approx(1.175))


def test_one_round_is_its_own_spread() -> None:
    assert pairwise_ratio([{"base": 2.0, "x": 3.0}], "x", "base") == Ratio(1.5, 1.5, 1.5)


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    rows = invented_rows(InputSize(1, 128), [10.0, 20.0, 80.0], {"adapter-h": 1.3})
    assert {(row.contender, round(row.ratio, 6)) for row in rows if row.ratio != 1} == {("adapter-h", 1.3)}
    assert rows[0].milliseconds == 20.0


def test_merged_is_judged_against_the_base_timed_twice() -> None:
    rows = invented_rows(InputSize(2, 64), [10.0] * 5, {"lora-merged": 1.01})
    noise = noise_of(rows, rounds=5)
    assert (noise.low, noise.high, noise.merged_within, noise.deployed_within) == (1.0, 1.0, False, True)
    assert noise_of(rows, rounds=4).merged_within is None
    assert Ratio(1.01, 1.0, 1.02).overlaps(Ratio(0.99, 0.98, 1.0))
    assert not Ratio(1.01, 1.005, 1.02).overlaps(Ratio(0.99, 0.98, 1.0))


def test_table_1_is_beside_the_sizes_nearest_to_the_papers() -> None:
    rows = invented_rows(InputSize(1, 128), [1.0], {})
    paper = {(row.contender, row.size): row.paper_ratio for row in rows}
    assert paper["adapter-h", 250] == pytest.approx(1.303, abs=1e-3)
    assert paper["adapter-l", 250] == pytest.approx(1.207, abs=1e-3)
    assert paper["lora-merged", 4] == 1.0
    assert paper["adapter-h", 10] is paper["lora-live", 4] is None
    large = {(row.contender, row.size): row.paper_ratio for row in invented_rows(InputSize(32, 512), [1.0], {})}
    assert (large["adapter-l", 10], large["adapter-l", 250]) == (pytest.approx(1.0225, abs=1e-3), None)
    assert all(row.paper_ratio is None for row in invented_rows(InputSize(2, 64), [1.0], {}))


def test_a_far_smaller_adapter_is_not_the_papers() -> None:
    assert paper_ratio(InputSize(1, 128), "adapter-h", 1_000_000, [1_000_000]) is None


def test_a_ratio_within_the_noise_is_marked() -> None:
    """A merged model that took −63% while the base itself varied as much is not faster."""
    wild = [[10.0, 3.7], [4.0, 10.0], [10.0, 9.0], [3.0, 3.1], [10.0, 3.5]]
    rounds = [{each: (again if each.name == "base-again" else base) for each in AMONG} for base, again in wild]
    for number, each in enumerate(rounds):
        each[contender("lora-merged")] = each[contender("base")] * (0.37 if number != 1 else 1.1)
        each[contender("adapter-h")] = each[contender("base")] * 30
    rows = {row.contender: row for row in rows_of(InputSize(1, 128), rounds, dict.fromkeys(AMONG, 1))}
    assert rows["lora-merged"].ratio == pytest.approx(0.37)
    assert [rows[name].beyond_noise for name in ("lora-merged", "adapter-h")] == [False, True]
    assert rows["base"].beyond_noise is rows["base-again"].beyond_noise is None
    few = rows_of(InputSize(1, 128), rounds[:4], dict.fromkeys(AMONG, 1))
    assert {row.beyond_noise for row in few} == {None}


def contender(name: str) -> Contender:
    return [each for each in AMONG if each.name == name][-1]
