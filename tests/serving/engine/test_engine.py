"""The engine: every answer of a mixed batch is the answer that its request gets alone."""

from collections.abc import Sequence

import pytest
import torch

import loralab as ll
from loralab.errors import SpecError
from loralab.serving.engine.engine import Engine, EngineConfig
from loralab.serving.engine.request import Done, Request, SamplingSettings, Token
from serving.causal import CAUSAL, LENGTH, adapt, causal, plainly, prompts

LENGTHS = (1, 3, 17, 9, 30, 2, 12, 5)
WHO = (None, "a", "b", "c", "a", None, "c", "b")
NEW = 12


def answered(engine: Engine, requests: Sequence[Request]) -> list[list[int]]:
    """The tokens of every request."""
    for request in requests:
        engine.submit(request)
    return written(engine, requests)


def written(engine: Engine, requests: Sequence[Request]) -> list[list[int]]:
    found: dict[Request, list[int]] = {request: [] for request in requests}
    for event in engine.run():
        if isinstance(event, Token):
            found[event.request].append(event.id)
    return list(found.values())


def small(kind: str = "llama", rows: int = 4) -> tuple[Engine, dict[str, object]]:
    model = causal(kind)
    pairs = adapt(model, a=2, b=5, c=8)
    ll.detach(model)
    engine = Engine(model, EngineConfig(rows=rows, chunk=8, length=LENGTH))
    for name, each in pairs.items():
        engine.hold(name, each)
    return engine, dict(pairs)


@pytest.mark.parametrize("kind", CAUSAL)
def test_mixed_answers_are_those_of_each_alone(kind: str) -> None:
    model = causal(kind)
    pairs = adapt(model, a=2, b=5, c=8)
    expected = [plainly(model, each, who, NEW) for each, who in zip(prompts(*LENGTHS), WHO, strict=True)]
    ll.detach(model)
    engine = Engine(model, EngineConfig(rows=4, chunk=8, length=LENGTH))
    for name, each in pairs.items():
        engine.hold(name, each)
    asked = zip(prompts(*LENGTHS), WHO, strict=True)
    requests = [Request(prompt=tuple(each), max_new_tokens=NEW, adapter=who) for each, who in asked]
    assert answered(engine, requests) == expected
    assert len({tuple(each) for each in expected}) > 4  # adapters and prompts make a difference


def test_the_columns_of_the_cache_are_used_again() -> None:
    """Many more tokens than columns, with rows that stay while others come and go."""
    engine, _ = small(rows=3)
    requests = [Request(prompt=tuple(each), max_new_tokens=40) for each in prompts(*[3, 20, 9] * 6)]
    together = answered(engine, requests)
    alone = [answered(engine, [Request(prompt=each.prompt, max_new_tokens=40)])[0] for each in requests]
    assert together == alone
    assert engine.is_idle


def test_a_request_may_fill_the_whole_length() -> None:
    engine, _ = small(rows=2)
    longest = [Request(prompt=tuple(each), max_new_tokens=LENGTH - len(each)) for each in prompts(1, 63, 32)]
    assert [len(each) for each in answered(engine, longest)] == [63, 1, 32]


def test_an_end_ends_and_is_not_told() -> None:
    engine, _ = small()
    prompt = tuple(prompts(9)[0])
    whole = answered(engine, [Request(prompt=prompt, max_new_tokens=6)])[0]
    end = whole[3]
    asked = Request(prompt=prompt, max_new_tokens=6, ends=frozenset([end]))
    engine.submit(asked)
    events = list(engine.run())
    assert [event.id for event in events if isinstance(event, Token)] == whole[: whole.index(end)]
    assert events[-1] == Done(asked, "stop")


def test_one_that_is_cancelled_leaves_and_the_others_go_on() -> None:
    engine, _ = small(rows=2)
    requests = [Request(prompt=tuple(each), max_new_tokens=20) for each in prompts(4, 6, 30, 5)]
    alone = [answered(engine, [Request(prompt=each.prompt, max_new_tokens=20)])[0] for each in requests]
    for request in requests:
        engine.submit(request)
    begun = [event for _ in range(3) for event in engine.step()]
    engine.cancel(requests[0])  # writing
    engine.cancel(requests[3])  # waiting
    events = [*begun, *engine.run()]
    assert {event.request: event.reason for event in events if isinstance(event, Done)} == {
        requests[0]: "cancelled",
        requests[1]: "length",
        requests[2]: "length",
        requests[3]: "cancelled",
    }
    found = [[e.id for e in events if isinstance(e, Token) and e.request is request] for request in requests]
    assert found[1:3] == alone[1:3]


def test_a_prompt_that_is_being_read_can_be_cancelled() -> None:
    engine, _ = small()
    asked = Request(prompt=tuple(prompts(30)[0]), max_new_tokens=5)
    engine.submit(asked)
    engine.step()
    engine.cancel(asked)
    assert list(engine.run()) == [Done(asked, "cancelled")]


def test_more_adapters_than_rows_and_columns_are_given_back() -> None:
    model = causal("llama")
    names = {f"n{number}": 1 + number % 5 for number in range(9)}
    pairs = adapt(model, **names)
    expected = {name: plainly(model, prompts(5)[0], name, 4) for name in names}
    ll.detach(model)
    engine = Engine(model, EngineConfig(rows=2, chunk=8, length=LENGTH))
    for name, each in pairs.items():
        engine.hold(name, each)
    prompt = tuple(prompts(5)[0])
    requests = {name: Request(prompt=prompt, max_new_tokens=4, adapter=name) for name in names}
    assert dict(zip(names, answered(engine, list(requests.values())), strict=True)) == expected
    assert len(engine.bank.keys) <= 2
    for name in names:
        engine.release(name)
    assert engine.bank.memory_bytes == 0
    assert not any(module._forward_hooks for module in model.modules())


def test_an_adapter_that_is_released_finishes_what_it_began() -> None:
    engine, _ = small()
    prompt = tuple(prompts(9)[0])
    whole = answered(engine, [Request(prompt=prompt, max_new_tokens=8, adapter="a")])[0]
    asked = [Request(prompt=prompt, max_new_tokens=8, adapter="a") for _ in range(2)]
    for request in asked:
        engine.submit(request)
    engine.step()
    engine.release("a")
    with pytest.raises(SpecError, match="not held"):
        engine.submit(Request(prompt=prompt, max_new_tokens=1, adapter="a"))
    assert written(engine, asked)[1] == whole
    assert "a" not in engine.bank


def test_no_adapter_starves_another() -> None:
    engine, _ = small(rows=1)
    flood = [Request(prompt=(5, 6), max_new_tokens=2, adapter="a") for _ in range(10)]
    one = Request(prompt=(5, 6), max_new_tokens=2, adapter="b")
    for request in [*flood, one]:
        engine.submit(request)
    order = [event.request for event in engine.run() if isinstance(event, Done)]
    assert order.index(one) <= 2


def test_values_that_are_not_finite_end_their_own_request_alone() -> None:
    engine, pairs = small(rows=3)
    good = Request(prompt=(5, 6, 7), max_new_tokens=6)
    alone = answered(engine, [good])[0]
    bad = {path: (A, torch.full_like(B, torch.inf)) for path, (A, B) in pairs["a"].items()}  # type: ignore[attr-defined]
    engine.hold("bad", bad)
    asked = [
        Request(prompt=(5, 6, 7), max_new_tokens=6),
        Request(prompt=(5, 6, 7), max_new_tokens=6, adapter="bad"),
        Request(prompt=(5, 6, 7), max_new_tokens=6),
    ]
    assert answered(engine, asked) == [alone, [], alone]
    assert answered(engine, [good])[0] == alone


def test_a_seed_draws_the_same_whatever_else_is_there() -> None:
    engine, _ = small()
    hot = SamplingSettings(temperature=1.5, top_k=20, top_p=0.9, seed=7)
    alone = answered(engine, [Request(prompt=(5, 6, 7), max_new_tokens=10, sampling=hot)])[0]
    others = [Request(prompt=tuple(each), max_new_tokens=10, adapter="b") for each in prompts(3, 12)]
    asked = Request(prompt=(5, 6, 7), max_new_tokens=10, sampling=hot)
    assert answered(engine, [*others, asked])[2] == alone
    cold = answered(engine, [Request(prompt=(5, 6, 7), max_new_tokens=10)])[0]
    assert alone != cold


@pytest.mark.parametrize(
    "prompt, new, said",
    [((), 3, "no tokens"), ((5,) * 60, 5, "60 tokens of prompt and 5 new ones are 65"), ((5,), 0, "at least 1")],
)
def test_what_does_not_fit_is_refused_before_anything_is_computed(prompt: tuple[int, ...], new: int, said: str) -> None:
    engine, _ = small()
    with pytest.raises(SpecError, match=said):
        engine.submit(Request(prompt=prompt, max_new_tokens=new))
    assert engine.is_idle


def test_a_length_beyond_the_context_is_refused() -> None:
    with pytest.raises(SpecError, match="context is 64"):
        Engine(causal("llama"), EngineConfig(length=65))
