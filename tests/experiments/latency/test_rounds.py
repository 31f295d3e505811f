from loralab.experiments.latency.contenders import contenders
from loralab.experiments.latency.rounds import order_in_round, time_rounds
from small_models import build

AMONG = contenders(rank=2, sizes=(4,))


def test_the_order_rotates() -> None:
    orders = [order_in_round("abcd", number) for number in range(4)]
    assert orders == [list("abcd"), list("adcb"), list("cdab"), list("cbad")]
    assert order_in_round("abcd", 4) == orders[0]


def test_nobody_is_always_before_or_after_the_same_one() -> None:
    orders = [order_in_round("abcde", number) for number in range(10)]
    before = {(order[i], order[i + 1]) for order in orders for i in range(4)}
    assert {("a", "b"), ("b", "a"), ("e", "a"), ("a", "e")} <= before
    for name in "abcde":
        assert len({order.index(name) for order in orders}) == 5


def test_everybody_is_timed_in_every_round() -> None:
    calls = []
    rounds = time_rounds(build("gpt2"), lambda: calls.append(1), AMONG, rounds=2, repeats=3)
    assert [set(each) for each in rounds] == [set(AMONG)] * 2
    assert all(value >= 0 for each in rounds for value in each.values())
    assert len(calls) == len(AMONG) * (2 + 2 * (1 + 3)), "two to warm up; then one untimed before the repeats"
