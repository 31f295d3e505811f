"""Layers that the model passes by: their adapter could not act."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

import loralab as ll
from toys import give_effect


class ReadsItsChild(nn.Module):
    """Multiplies by its child's weight and never calls the child."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.idle = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) @ self.idle.weight.T


class AsksItsChild(ReadsItsChild):
    """Asks its child's weight for no more than its form."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.idle.weight
        return self.idle(self.first(x.to(weight.dtype))[: weight.shape[0]] + weight.new_zeros(weight.size(0)))


class Tied(nn.Module):
    """Looks up in its embedding and multiplies by it as well."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(16, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(self.tokens(tokens), self.tokens.weight)


def mamba() -> PreTrainedModel:
    return MambaForCausalLM(MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, state_size=4))


def deberta() -> PreTrainedModel:
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    places = {"relative_attention": True, "pos_att_type": ["c2p"], "max_relative_positions": 8}
    return DebertaV2ForSequenceClassification(DebertaV2Config(**sizes, **places, num_attention_heads=2))


def t5() -> PreTrainedModel:
    config = T5Config(vocab_size=40, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config)


def bart() -> PreTrainedModel:
    side = {"layers": 1, "attention_heads": 2, "ffn_dim": 16}
    sides = {f"{name}_{key}": value for name in ("encoder", "decoder") for key, value in side.items()}
    return BartForConditionalGeneration(BartConfig(vocab_size=40, d_model=16, **sides))


@pytest.mark.parametrize(
    "build, target, why",
    [
        (mamba, "conv1d", "computes with its weight itself"),
        (mamba, "dt_proj", "computes with its weight itself"),
        (deberta, "rel_embeddings", "computes with its weight itself"),
        (t5, "shared", r"calls encoder\.embed_tokens instead"),
        (bart, "shared", r"calls model\.encoder\.embed_tokens instead"),
    ],
)
def test_what_a_transformers_model_passes_by_is_refused_at_once(build: object, target: str, why: str) -> None:
    model = build().eval()  # type: ignore[operator]
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(ll.TargetError, match=rf"{target} \(the model {why}"):
        ll.attach(model, ll.LoRA(rank=1, targets=[target]))
    assert [name for name, _ in model.named_modules()] == names
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_another_model_is_refused_at_its_first_pass() -> None:
    model = ReadsItsChild()
    ll.attach(model, ll.LoRA(rank=2, targets=["idle"]))
    with pytest.raises(ll.TargetError, match=r"idle \(the model computes with its weight itself\)"):
        model(torch.randn(2, 8))


@pytest.mark.parametrize("live", [True, False])
def test_a_weight_that_is_only_asked_for_its_form_is_no_reason(live: bool) -> None:
    model = AsksItsChild()
    ll.attach(model, ll.LoRA(rank=2, targets=["idle"]))
    if not live:
        ll.activate(model, None)
    model(torch.randn(2, 8))
    assert bool(model._forward_hooks) is not live  # it still waits for a pass under an adapter


def test_a_weight_that_is_used_past_its_layer_too_is_not_merged() -> None:
    model = Tied()
    give_effect(ll.attach(model, ll.LoRA(rank=2, targets=["tokens"])))
    live = model(torch.arange(6))
    with pytest.raises(ll.AdapterStateError, match=r"the weight of tokens past the layer"):
        ll.merge(model)
    assert torch.equal(model(torch.arange(6)), live)


def test_a_copy_of_a_waiting_model_waits_for_itself() -> None:
    model = ReadsItsChild()
    ll.attach(model, ll.LoRA(rank=2, targets=["idle"]))
    copied = copy.deepcopy(model)
    with pytest.raises(ll.TargetError, match="idle"):
        copied(torch.randn(2, 8))
    assert model._forward_hooks
    assert not copied._forward_hooks


def test_a_pass_that_breaks_off_shows_nothing() -> None:
    model = ReadsItsChild()
    ll.attach(model, ll.LoRA(rank=2, targets=["idle"]))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        model(torch.randn(2, 7))
    with pytest.raises(ll.TargetError, match="idle"):
        model(torch.randn(2, 8))


def test_the_pass_that_nobody_asked_for_shows_the_model_no_padding() -> None:
    """transformers warns of padding without a mask, on a user's screen."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=2, n_positions=16, pad_token_id=0))
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, args, inputs: seen.append(inputs["input_ids"]), with_kwargs=True)
    ll.attach(model, ll.LoRA(rank=2, targets=["c_attn"]))
    assert seen
    assert not any((ids == 0).any() for ids in seen)
