"""Small causal models of several families, and adapters that do something to them."""

from collections.abc import Callable

import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

import loralab as ll
from loralab.serving.engine.bank import Pairs
from loralab.serving.engine.engine import Engine
from loralab.serving.engine.request import Request, Token
from toys import give_effect

LENGTH = 64
SIZES = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": LENGTH}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
WINDOWS = {"num_hidden_layers": 3, "head_dim": 8, "sliding_window": 6}
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]

CAUSAL: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, **ENDS)),
    "learned positions": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=LENGTH, **ENDS)
    ),
    "positions from the mask": lambda: OPTForCausalLM(
        OPTConfig(**SIZES, ffn_dim=64, max_position_embeddings=LENGTH, word_embed_proj_dim=32, **ENDS)
    ),
    "distances (ALiBi)": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4, **ENDS)
    ),
    "a window": lambda: MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=5, **ENDS)),
    "some windows": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**{**GROUPED, **WINDOWS}, layer_types=LAYERS, **ENDS)),
}


def causal(kind: str) -> PreTrainedModel:
    """A model of that kind with the same weights at every call, in evaluation mode."""
    torch.manual_seed(0)
    return CAUSAL[kind]().eval()


def prompts(*lengths: int) -> list[list[int]]:
    """Token ids that are no special ones."""
    source = torch.Generator().manual_seed(1)
    return [torch.randint(3, 97, (length,), generator=source).tolist() for length in lengths]


def adapt(model: PreTrainedModel, **ranks: int) -> dict[str, Pairs]:
    """Adapters on every linear layer of the blocks, of these names and ranks, left on the model; and their pairs."""
    found = {}
    for name, rank in ranks.items():
        adapter = ll.attach(model, ll.LoRA(rank=rank, targets="all-linear"), name=name)
        give_effect(adapter, std=0.2)
        found[name] = {
            path: tuple(each.detach().clone() for each in update.settled_factors())  # type: ignore[operator]
            for path, update in adapter.updates.items()
        }
    return found


def plainly(model: PreTrainedModel, prompt: list[int], adapter: str | None, new: int) -> list[int]:
    """The likeliest tokens one by one, each from a pass over the whole text without a cache."""
    ll.activate(model, adapter)
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(new):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def answers(engine: Engine, requests: list[Request]) -> list[list[int]]:
    """The tokens of each request."""
    for request in requests:
        engine.submit(request)
    events = [event for event in engine.run() if isinstance(event, Token)]
    return [[event.id for event in events if event.request is request] for request in requests]
