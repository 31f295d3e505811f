"""Adapters that come and go in the engine: what users of other servers ran into."""

import pytest
import torch

import loralab as ll
from loralab.serving.engine.bank import Pairs
from loralab.serving.engine.engine import Engine, EngineConfig
from loralab.serving.engine.request import Done, Request, Token
from serving.causal import LENGTH, adapt, causal, plainly, prompts

NEW = 6
RANKS = {"a": 2, "b": 5, "c": 3, "d": 4}


class Fleet:
    """An engine with adapters, and what the model itself says under each."""

    def __init__(self, rows: int) -> None:
        self.model = causal("llama")
        self.pairs: dict[str, Pairs] = adapt(self.model, **RANKS)
        self.expected = {
            (who, length): plainly(self.model, prompts(length)[0], who, NEW)
            for who in (None, *RANKS)
            for length in (5, 30)
        }
        ll.detach(self.model)
        self.engine = Engine(self.model, EngineConfig(rows=rows, chunk=8, length=LENGTH))
        for name, each in self.pairs.items():
            self.engine.hold(name, each)

    def asked(self, who: str | None, length: int = 5) -> Request:
        request = Request(prompt=tuple(prompts(length)[0]), max_new_tokens=NEW, adapter=who)
        self.engine.submit(request)
        return request

    def rest(self, begun: list[object] | None = None) -> list[object]:
        return [*(begun or []), *self.engine.run()]

    def is_right(self, events: list[object], request: Request) -> bool:
        found = [each.id for each in events if isinstance(each, Token) and each.request is request]
        return found == self.expected[request.adapter, len(request.prompt)]


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_more_adapters_than_rows_with_the_base_between(rows: int) -> None:
    fleet = Fleet(rows)
    requests = [fleet.asked(who) for who in ("a", None, "b", "c", None, "d", "a", None, "c")]
    events = fleet.rest()
    assert all(fleet.is_right(events, each) for each in requests)


def test_an_adapter_whose_long_prompt_is_being_read_keeps_its_columns() -> None:
    """Two decode, a third reads its prompt in chunks, and others wait for columns."""
    fleet = Fleet(rows=3)
    requests = [fleet.asked("a"), fleet.asked("b")]
    begun = [event for _ in range(2) for event in fleet.engine.step()]
    requests += [fleet.asked("c", 30), fleet.asked("d", 30), fleet.asked(None, 30)]
    events = fleet.rest(begun)
    assert all(fleet.is_right(events, each) for each in requests)


def test_full_rows_of_adapters_do_not_shut_the_base_out() -> None:
    fleet = Fleet(rows=2)
    flood = [fleet.asked(who) for who in "ab" * 6]
    base = fleet.asked(None)
    events = fleet.rest()
    ended = [each.request for each in events if isinstance(each, Done)]
    assert ended.index(base) <= 4
    assert all(fleet.is_right(events, each) for each in (*flood, base))


def test_all_base_after_all_adapters_and_both_at_once() -> None:
    fleet = Fleet(rows=4)
    for names in (["a", "b", "c", "d"], [None] * 4, ["a", None, "b", None], [None]):
        requests = [fleet.asked(who) for who in names]
        events = fleet.rest()
        assert all(fleet.is_right(events, each) for each in requests), names


def test_columns_that_another_had_are_zero_where_the_next_has_no_module() -> None:
    fleet = Fleet(rows=1)
    narrow = {path: pair for path, pair in fleet.pairs["d"].items() if path.endswith("q_proj")}
    request = Request(prompt=tuple(prompts(9)[0]), max_new_tokens=NEW, adapter="narrow", logprobs=0)

    def told(engine: Engine) -> torch.Tensor:
        engine.hold("narrow", narrow)
        engine.submit(request)
        return torch.tensor([each.logprob for each in engine.run() if isinstance(each, Token)])

    fresh = told(Engine(causal("llama"), fleet.engine.config))
    for who in RANKS:
        fleet.asked(who)
    fleet.rest()
    torch.testing.assert_close(told(fleet.engine), fresh, rtol=0, atol=1e-5)


def test_many_answers_to_one_prompt_do_not_hold_an_adapter_that_is_released() -> None:
    fleet = Fleet(rows=2)
    requests = [fleet.asked("a") for _ in range(5)]
    begun = [event for _ in range(3) for event in fleet.engine.step()]
    fleet.engine.release("a")
    events = fleet.rest(begun)
    assert all(fleet.is_right(events, each) for each in requests)
    assert ("a" in fleet.engine.bank, "a" in fleet.engine.held) == (False, False)
