import pytest

from experiments.invented import full, lora
from loralab.experiments.comparison.claims import judge_claims
from loralab.experiments.comparison.rows import Row


def costs(*rows: Row) -> dict[str, tuple[bool | None, str]]:
    return {each.name: (each.held, each.found) for each in judge_claims(rows)}


@pytest.mark.parametrize("memory, held", [(3_000_000_000, True), (2_900_000_000, False)])
def test_memory_is_a_ratio(memory: int, held: bool) -> None:
    found = costs(lora(70.0), full(70.0, peak_memory_bytes=memory))["memory"]
    assert found[0] is held
    assert f"full at {memory / 1e6:,.0f} MB: LoRA/full {1e9 / memory:.2f}" in found[1]


@pytest.mark.parametrize("speed, held", [(1330.0, True), (1300.0, False), (900.0, False)])
def test_speed_is_a_ratio(speed: float, held: bool) -> None:
    found = costs(lora(70.0, tokens_per_second=speed), full(70.0))["speed"]
    assert (found[0], f"LoRA/full {speed / 1000:.2f}" in found[1]) == (held, True)


def test_slower_is_more_time() -> None:
    assert "25.0% more time a token" in costs(lora(70.0, tokens_per_second=800.0), full(70.0))["speed"][1]


def test_costs_need_no_metric_but_both_methods() -> None:
    assert costs(lora(metrics={}, seeds=(1,)), full(metrics={}, seeds=(1,)))["memory"][0] is False
    assert costs(lora(70.0))["speed"] == (None, "not tested in this comparison: it needs results of full and lora")
