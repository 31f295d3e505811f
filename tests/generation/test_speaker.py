"""A conversation: what was read of it once is not read again, and never under another adapter."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import loralab as ll
from loralab.generation.config import GenerationConfig
from loralab.generation.speaker import ModelSpeaker
from loralab.tasks.example import Message
from serving.causal import ENDS, GROUPED
from small_tokenizers import small_tokenizer
from toys import give_effect

QUESTION = "How long is a conversation that is longer than a block of what is kept? " * 4


def talkative() -> PreTrainedModel:
    """Llama with room for a conversation, and two adapters."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**GROUPED, "vocab_size": 400, "max_position_embeddings": 2048}, **ENDS))
    for name in ("a", "b"):
        give_effect(ll.attach(model.eval(), ll.LoRA(rank=2, targets="all-linear"), name=name), std=0.2)
    return model


def speaker(model: PreTrainedModel) -> ModelSpeaker:
    config = GenerationConfig(max_new_tokens=8)
    return ModelSpeaker(model, small_tokenizer("byte-level"), config, lambda _: 2048, adapters=("a", "b"))


def spoken(by: ModelSpeaker, who: str | None, turns: int) -> str:
    return by.speak([Message("user", QUESTION)] * turns, who, lambda piece: None).text


def test_a_turn_is_not_read_again() -> None:
    model = talkative()
    talks = speaker(model)
    said = {(who, turns): spoken(talks, who, turns) for turns in (1, 2, 3) for who in ("a", None, "b")}
    assert {who: store.hits for who, store in talks._read.items()} == {"a": 2, None: 2, "b": 2}
    assert said == {(who, turns): spoken(speaker(model), who, turns) for who, turns in said}
    assert len(set(said.values())) > 3
