"""Beginnings of prompts that are read once: the same bits as when they are read again, and never another adapter's."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from transformers import DynamicCache

import loralab as ll
from loralab.serving.engine.decoder import Chunk
from loralab.serving.engine.engine import Engine, EngineConfig
from loralab.serving.engine.prefixes import PrefixStore, end_of_chunk, ends_of_chunks
from loralab.serving.engine.request import Request, SamplingSettings, Token
from loralab.serving.engine.reuse import why_not_reused
from serving.causal import CAUSAL, LENGTH, adapt, causal, prompts

BLOCK, NEW = 4, 6
CONFIG = EngineConfig(rows=3, chunk=8, length=LENGTH, prefix_bytes=2**20, prefix_block=BLOCK, pack=False)
LONG = prompts(40)[0]


def engines(kind: str = "llama", dtype: torch.dtype = torch.float32) -> tuple[Engine, Engine]:
    """One that keeps beginnings, and one that reads by the same chunks and keeps none."""
    model = causal(kind)
    pairs = adapt(model, a=2, b=5)
    ll.detach(model)
    model.to(dtype)
    found = Engine(model, CONFIG), Engine(model, CONFIG)
    found[1].prefixes.turn_off("to compare with")
    for engine in found:
        for name, each in pairs.items():
            engine.hold(name, each)
    return found


def told(engine: Engine, requests: Sequence[Request]) -> list[list[Token]]:
    """The tokens of each, with their logprobs."""
    for request in requests:
        engine.submit(request)
    tokens = [event for event in engine.run() if isinstance(event, Token)]
    return [[token for token in tokens if token.request is request] for request in requests]


def plain(tokens: Sequence[Token]) -> list[tuple[int, float | None]]:
    return [(token.id, token.logprob) for token in tokens]


def ids(tokens: Sequence[Token]) -> list[int]:
    return [token.id for token in tokens]


def asked(prompt: Sequence[int], adapter: str | None = None, **others: object) -> Request:
    return Request(prompt=tuple(prompt), max_new_tokens=NEW, adapter=adapter, logprobs=1, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", CAUSAL)
def test_a_known_beginning_changes_no_bit(kind: str, dtype: torch.dtype) -> None:
    keeps, forgets = engines(kind, dtype)
    lengths = (3, 40, 39, 38, 37, 36, 12, 33, 40, 5, 6, 4)
    known = []
    for number, length in enumerate(lengths):
        adapter = (None, "a")[number % 2]
        one, other = (told(each, [asked(LONG[:length], adapter)])[0] for each in (keeps, forgets))
        assert plain(one) == plain(other)
        known.append(one[0].known)
    assert not keeps.prefixes.why_off
    assert known == [0, 0, 0, 36, 32, 32, 8, 28, 36, 0, 4, 0]  # at least two tokens are read, and whole blocks known


def test_no_adapter_begins_with_what_another_read() -> None:
    keeps, forgets = engines()
    for adapter in ("a", "b", None):
        one, other = (told(each, [asked(LONG, adapter)])[0] for each in (keeps, forgets))
        assert (plain(one), one[0].known) == (plain(other), 0)
    assert told(keeps, [asked(LONG, "b")])[0][0].known == 36
    keeps.release("b")
    kept = keeps.prefixes.memory_bytes
    keeps.hold("b", dict(adapt(causal("llama"), a=2, b=3))["b"])
    assert told(keeps, [asked(LONG, "b")])[0][0].known == 0  # what was released is forgotten
    assert keeps.prefixes.memory_bytes > kept > 0


def test_a_conversation_reads_its_new_turn() -> None:
    keeps, _ = engines()
    talk, before = list(LONG[:10]), 0
    for turn in range(3):
        tokens = told(keeps, [asked(talk)])[0]
        assert tokens[0].known == before // BLOCK * BLOCK, turn
        before = len(talk)
        talk += [*(token.id for token in tokens), *LONG[20:24]]
    assert (keeps.prefixes.hits, keeps.prefixes.reused) == (2, 8 + 20)


def test_many_answers_to_one_prompt_read_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, engine = engines()
    hot = [asked(LONG, "a", sampling=SamplingSettings(temperature=1.0, seed=seed)) for seed in range(5)]
    alone = [ids(told(engine, [each])[0]) for each in hot]
    reads: list[int] = []
    read = engine._decoder.read

    def counted(chunks: Sequence[Chunk]) -> torch.Tensor:
        reads.extend(len(chunk.ids) for chunk in chunks)
        return read(chunks)

    monkeypatch.setattr(engine._decoder, "read", counted)
    together = told(engine, [asked(LONG[::-1], "b"), *hot, asked(LONG[::-1], "b")])
    assert [ids(each) for each in together[1:-1]] == alone
    assert sum(reads) == 2 * len(LONG)
    assert [each[0].known for each in together] == [0, 0, *[len(LONG)] * 5]
    engine.step()
    assert not engine._wanted_again


def test_a_short_prompt_is_read_beside_a_long_one() -> None:
    engine, _ = engines()
    long, short = asked(LONG), asked(LONG[:3:-1][:4], "a")
    for request in (long, short):
        engine.submit(request)
    begun = [event.request for event in engine.run() if isinstance(event, Token)]
    assert begun.index(short) < begun.index(long)


def test_a_flood_of_one_prompt_leaves_rows_to_others() -> None:
    engine, _ = engines()
    flood, other = [asked(LONG[:6], "a") for _ in range(9)], asked(LONG[:6], "b")
    for request in (*flood, other):
        engine.submit(request)
    begun = list(dict.fromkeys(event.request for event in engine.run() if isinstance(event, Token)))
    assert begun.index(other) <= 2


def test_memory_is_bounded_and_ends_go_before_beginnings() -> None:
    keeps, _ = engines()
    told(keeps, [asked(LONG)])
    size = keeps.prefixes.memory_bytes // 10
    keeps.prefixes.capacity = 5 * size
    told(keeps, [asked(LONG[20:])])
    assert keeps.prefixes.memory_bytes <= 5 * size
    assert told(keeps, [asked(LONG[20:])])[0][0].known == 16
    keeps.prefixes.turn_off("enough")
    assert (keeps.prefixes.memory_bytes, told(keeps, [asked(LONG)])[0][0].known) == (0, 0)


def test_a_cancelled_twin_leaves_nothing() -> None:
    _, engine = engines()
    requests = [asked(LONG), asked(LONG)]
    for request in requests:
        engine.submit(request)
    for _ in range(9):
        engine.step()
    engine.cancel(requests[1])
    list(engine.run())
    assert engine.is_idle
    assert not engine._wanted_again


@pytest.mark.parametrize("length", range(1, 14))
def test_chunks_end_where_the_tokens_say(length: int) -> None:
    ends = ends_of_chunks(length, BLOCK)
    assert (ends[0], ends[-1]) == (0, length)
    assert all(end % BLOCK == 0 for end in ends[:-1])
    assert length == 1 or all(end - start > 1 for start, end in pairwise(ends))
    assert end_of_chunk(0, length, BLOCK) == ends[1]


@pytest.mark.parametrize("kind", CAUSAL)
def test_models_of_many_families_may_begin_with_what_is_known(kind: str) -> None:
    assert why_not_reused(causal(kind)) == ""


def test_a_model_with_a_state_of_its_own_may_not() -> None:
    """Its tokens are shifted by a state that goes on from call to call, as a recurrent layer's does."""
    model = causal("llama")
    state = [0.0]

    def shifted(module: torch.nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        state[0] += 0.1
        return output + state[0]

    model.get_input_embeddings().register_forward_hook(shifted)
    assert "answered otherwise" in why_not_reused(model)


def test_a_cache_of_another_kind_turns_it_off() -> None:
    store, cache = PrefixStore(100), DynamicCache()
    cache.update(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2), 0)
    store.keep(None, (5, 6, 7, 8), cache)  # one of the tokens is not there
    assert "every token" in store.why_off
