"""A conversation: what was read of it once is not read again, and never under another adapter."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import loralab as ll
from loralab.generation.config import GenerationConfig
from loralab.generation.ends import turn_ends
from loralab.generation.generate import decode, generate_ids
from loralab.generation.speaker import ModelSpeaker
from loralab.serving.engine.engine import Engine
from loralab.tasks.example import Message
from serving.causal import ENDS, GROUPED
from small_tokenizers import small_tokenizer
from toys import give_effect

QUESTION = "How long is a conversation that is longer than a block of what is kept? " * 4
TOKENIZER, CONFIG = small_tokenizer("byte-level"), GenerationConfig(max_new_tokens=8)


def talkative(**more: Any) -> PreTrainedModel:
    """Llama with room for a conversation."""
    torch.manual_seed(0)
    sizes = {**GROUPED, "vocab_size": 400, "max_position_embeddings": 4096, **more}
    return LlamaForCausalLM(LlamaConfig(**sizes, **ENDS)).eval()


def adapted(model: PreTrainedModel, *names: str, **settings: Any) -> PreTrainedModel:
    for name in names:
        give_effect(ll.attach(model, ll.LoRA(rank=2, targets="all-linear", **settings), name=name), std=0.2)
    return model


def talking(model: PreTrainedModel, *names: str) -> ModelSpeaker:
    return ModelSpeaker(model, TOKENIZER, CONFIG, lambda _: 4096, adapters=names)


def turns(count: int) -> list[Message]:
    return [Message("user", QUESTION)] * count


def spoken(by: ModelSpeaker, who: str | None, count: int) -> str:
    return by.speak(turns(count), who, lambda piece: None).text


def alone(by: ModelSpeaker, who: str | None, count: int) -> str:
    """The same by an engine of its own."""
    if by.adapters:
        ll.activate(by.model, who)
    ends = turn_ends(TOKENIZER)
    return decode(generate_ids(by.model, [by._ids(turns(count), who)], CONFIG, TOKENIZER, ends), TOKENIZER, ends)[0]


def engine_of(speaker: ModelSpeaker) -> Engine:
    assert speaker._engine._engine is not None
    return speaker._engine._engine


def test_a_turn_is_not_read_again() -> None:
    speaker = talking(adapted(talkative(), "a", "b"), "a", "b")
    said = {(who, count): spoken(speaker, who, count) for count in (1, 2, 3) for who in ("a", None, "b")}
    assert engine_of(speaker).how.startswith("decoding: fused blocks")
    assert engine_of(speaker).prefixes.hits == 6
    assert said == {(who, count): alone(speaker, who, count) for who, count in said}
    assert len(set(said.values())) > 3


def test_a_base_without_adapters_talks() -> None:
    speaker = talking(talkative())
    assert spoken(speaker, None, 2) == alone(speaker, None, 2) != ""


def test_an_adapter_that_is_more_than_pairs_talks_beside_one_that_is_not() -> None:
    model = adapted(adapted(talkative(), "plain"), "dora", magnitude=True)
    speaker = talking(model, "plain", "dora")
    said = {who: spoken(speaker, who, 1) for who in ("plain", "dora", "plain", None)}
    assert said == {who: alone(speaker, who, 1) for who in said}
    assert len(set(said.values())) == 3


def test_a_merged_adapter_talks() -> None:
    model = adapted(talkative(), "a")
    speaker = talking(model)
    expected = spoken(speaker, "a", 1)
    ll.merge(model)
    assert spoken(talking(model), "a", 1) == expected


def test_a_text_that_is_too_long_for_the_engine_is_answered_all_the_same() -> None:
    speaker = talking(talkative())
    assert len(speaker._ids(turns(16), None)) > 2048
    assert spoken(speaker, None, 16) == alone(speaker, None, 16)


def test_what_was_interrupted_is_forgotten() -> None:
    speaker = talking(talkative())
    expected = alone(speaker, None, 1)
    assert expected

    def enough(piece: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        speaker.speak(turns(1), None, enough)
    assert engine_of(speaker).is_idle
    assert spoken(speaker, None, 1) == expected
