"""Activated LoRA: an adapter that acts from its invocation tokens on: with a cache, per row, in training."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MambaConfig, MambaForCausalLM, RwkvConfig, RwkvForCausalLM

import loralab as ll
from loralab.core.rows.invocation import NEVER, Starts
from loralab.models.checkpointing import compute_blocks_again
from small_models import gpt2, llama
from toys import give_effect, quiet

CALL = [7, 8]
BEFORE = [[11, 12, 13, 14], [15, 7, 8, 16], [17, 18, 19, 20]]
"""Three beginnings of four tokens; the second holds the invocation already."""


def prompts() -> Tensor:
    """[3, 9]: the invocation begins at position 4; at 1 and again at 5; nowhere."""
    ids = [[*BEFORE[0], 7, 8, 21, 22, 23], [*BEFORE[1], 24, 7, 8, 25, 26], [*BEFORE[2], 7, 9, 8, 7, 27]]
    return torch.tensor(ids)


def invoked(model: nn.Module | None = None, **fields: Any) -> nn.Module:
    """A small model with the adapter `call`, which acts from the invocation on."""
    model = (llama() if model is None else model).eval()
    spec = {"rank": 2, "alpha": 8, "targets": "all-linear", "invocation_tokens": CALL}
    give_effect(ll.attach(model, ll.LoRA(**spec | fields), name="call"))
    return model


def test_the_last_occurrence_is_the_start() -> None:
    assert ll.invocation_starts(prompts(), CALL).tolist() == [4, 5, NEVER]
    assert ll.invocation_starts(prompts(), [8]).tolist() == [5, 6, 6]
    assert ll.invocation_starts(prompts()[:, :1], CALL).tolist() == [NEVER] * 3
    assert ll.invocation_starts(torch.tensor([[7, 7, 7]]), [7, 7]).tolist() == [1]
    for ids, tokens in ((prompts()[0], CALL), (prompts(), [])):
        with pytest.raises(ll.SpecError, match="at least one token"):
            ll.invocation_starts(ids, tokens)


@pytest.mark.parametrize("build", [llama, gpt2])
def test_it_is_the_base_before_the_start_and_another_from_there_on(build: Any) -> None:
    model = invoked(build())
    live = quiet(model, prompts()).logits
    with ll.disabled(model):
        base = quiet(model, prompts()).logits
    for row, start in enumerate([4, 5, 9]):
        assert torch.equal(live[row, :start], base[row, :start])
        assert ((live - base)[row, start:].abs().amax(-1) > 1e-4).all()


def test_an_invocation_at_the_very_start_is_plain_lora() -> None:
    ids = torch.tensor([[7, 8, 21, 22]])
    model = invoked()
    give_effect(ll.attach(model, ll.LoRA(rank=2, alpha=8, targets="all-linear"), name="plain"))
    adapters = ll.adapters_of(model)
    adapters.adapter("plain").load_state_dict(adapters.adapter("call").state_dict())
    plain = quiet(model, ids).logits
    ll.activate(model, "call")
    torch.testing.assert_close(quiet(model, ids).logits, plain)


def test_padding_on_either_side_changes_nothing() -> None:
    model, ids = invoked(), prompts()[:1]
    alone = quiet(model, ids).logits
    zeros = torch.zeros(1, 3, dtype=torch.int64)
    left = {"input_ids": torch.cat([zeros, ids], 1), "attention_mask": torch.tensor([[0] * 3 + [1] * 9])}
    right = {"input_ids": torch.cat([ids, zeros], 1), "attention_mask": torch.tensor([[1] * 9 + [0] * 3])}
    with torch.no_grad():
        torch.testing.assert_close(model(**left).logits[:, 3:], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(**right).logits[:, :9], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("build", [llama, gpt2])
def test_generating_with_a_cache_is_generating_without(build: Any, beams: int) -> None:
    model = invoked(build(), alpha=40)
    settings = {"max_new_tokens": 8, "do_sample": False, "num_beams": beams, "pad_token_id": 0, "eos_token_id": None}
    cached = model.generate(prompts(), attention_mask=torch.ones_like(prompts()), **settings)
    plain = model.generate(prompts(), attention_mask=torch.ones_like(prompts()), use_cache=False, **settings)
    assert torch.equal(cached, plain)
    with ll.disabled(model):
        base = model.generate(prompts(), attention_mask=torch.ones_like(prompts()), **settings)
    assert (cached != base).any(1).tolist() == [True, True, False]


def in_pieces(model: nn.Module, ids: Tensor, *cuts: int, cache: Any = None) -> tuple[Tensor, Any]:
    """The logits of `ids` given in pieces, each going on from the cache of the one before."""
    found = []
    for start, stop in zip((0, *cuts), (*cuts, ids.shape[1]), strict=True):
        with torch.no_grad():
            output = model(input_ids=ids[:, start:stop], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        found.append(output.logits)
    return torch.cat(found, 1), cache


def test_the_bases_cache_is_used_again() -> None:
    model, ids = invoked(), prompts()[:1]
    whole = quiet(model, ids).logits
    with ll.disabled(model):
        _, cache = in_pieces(model, ids[:, :4])
    for kept in (copy.deepcopy(cache), cache):
        logits, _ = in_pieces(model, ids[:, 4:], 3, 4, cache=kept)
        torch.testing.assert_close(logits, whole[:, 4:], atol=1e-5, rtol=1e-5)
    ll.detach(model)
    _, unheard = in_pieces(model, ids[:, :4])
    again = invoked(copy.deepcopy(model))
    torch.manual_seed(0)
    logits, _ = in_pieces(again, ids[:, 4:], cache=unheard)
    torch.testing.assert_close(logits, quiet(again, ids).logits[:, 4:], atol=1e-5, rtol=1e-5)


def test_a_prompt_may_come_in_pieces() -> None:
    model, ids = invoked(), prompts()
    whole = quiet(model, ids).logits
    for cuts in ((1,), (1, 3), (3, 7), (2, 4, 8)):
        logits, _ = in_pieces(model, ids[[0, 2]], *cuts)
        torch.testing.assert_close(logits, whole[[0, 2]], atol=1e-5, rtol=1e-5)


class OtherWord(nn.Module):
    """A model that calls its cache as transformers 5.24 does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = llama()

    def forward(self, input_ids: Tensor, cache: Any = None) -> Any:
        return self.inner(input_ids=input_ids, past_key_values=cache, use_cache=True)


def test_a_cache_is_one_whatever_it_is_called() -> None:
    model, ids = invoked(OtherWord()), prompts()[:1]
    whole = quiet(model, ids).logits
    with torch.no_grad():
        before = model(ids[:, :7])
        after = model(ids[:, 7:], cache=before.past_key_values)
    torch.testing.assert_close(torch.cat([before.logits, after.logits], 1), whole, atol=1e-5, rtol=1e-5)


def test_a_start_that_lies_in_the_cache_is_refused() -> None:
    model, ids = invoked(), prompts()[:1]
    with pytest.raises(ll.AdapterStateError, match="sequence 0 goes on from 5 cached positions that hold"):
        in_pieces(model, ids, 5)
    with ll.disabled(model):
        _, cache = in_pieces(model, ids[:, :7])
    with pytest.raises(ll.AdapterStateError, match="at position 4, and were computed without the adapter"):
        in_pieces(model, ids[:, 7:], cache=cache)
    adapter = ll.adapters_of(model).adapter("call")
    ll.detach(model)
    _, unheard = in_pieces(model, ids[:, :7])
    ll.attach(model, adapter.spec, name="call")
    with pytest.raises(ll.AdapterStateError, match="7 cached positions that were not heard"):
        in_pieces(model, ids[:, 7:], cache=unheard)


def test_every_row_its_own() -> None:
    model, ids = invoked(), prompts()[[0, 0, 0, 1, 2]]
    give_effect(ll.attach(model, ll.LoRA(rank=3, targets="all-linear"), name="plain"))
    give_effect(ll.attach(model, ll.LoRA(rank=1, targets="q_proj", invocation_tokens=[22]), name="late"))
    names = ["call", "plain", "late", "call", None]
    expected = []
    for row, name in enumerate(names):
        ll.activate(model, name)
        expected.append(quiet(model, ids[row : row + 1]).logits)
    with ll.rows(model, names):
        mixed = quiet(model, ids).logits
    with ll.rows(model, names[:3]):
        cached, _ = in_pieces(model, ids[:3], 4, 7)
    torch.testing.assert_close(mixed, torch.cat(expected), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cached, mixed[:3], atol=1e-5, rtol=1e-5)
    with ll.disabled(model):
        base = quiet(model, ids).logits
    for row, start in enumerate([4, 0, 7, 5, 9]):
        assert torch.equal(mixed[row, :start], base[row, :start])


def test_starts_may_be_told() -> None:
    model, ids = invoked(), prompts()
    found = quiet(model, ids).logits
    with ll.rows(model, ["call"] * 3, starts=[4, None, NEVER]):
        torch.testing.assert_close(quiet(model, ids).logits, found)
        with torch.no_grad():
            torch.testing.assert_close(in_pieces(model, ids[:, :9], 2)[0], found, atol=1e-5, rtol=1e-5)
    embedded = model.get_input_embeddings()(ids)
    with ll.rows(model, ["call"] * 3, starts=torch.tensor([4, 5, NEVER])), torch.no_grad():
        torch.testing.assert_close(model(inputs_embeds=embedded).logits, found)
    with pytest.raises(ll.AdapterStateError, match=r"'call'.*\[7, 8\].*without input_ids"):
        model(inputs_embeds=embedded, attention_mask=torch.ones_like(ids))
    with ll.disabled(model):
        assert model(inputs_embeds=embedded).logits.isfinite().all()
    for names, starts in ((["call", "call"], [1]), (["call", None], [1, 2]), (["call"], [-1]), (["call"], [1.0])):
        with pytest.raises(ll.SpecError, match="starts"):
            ll.rows(model, names, starts).__enter__()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_only_what_lies_behind_the_start_trains_it(dropout: float) -> None:
    model = invoked(dropout=dropout).train()
    adapter, ids = ll.adapters_of(model).adapter("call"), prompts()
    model(ids).logits[0, :4].square().sum().backward()
    assert not any(parameter.grad.any() for parameter in adapter.parameters())
    model(ids).logits[2].square().sum().backward()
    assert not any(parameter.grad.any() for parameter in adapter.parameters())
    model(ids).logits[0, 4:].square().sum().backward()
    assert all(parameter.grad.any() for parameter in adapter.parameters())


def test_rows_train_with_dropout_too() -> None:
    model, ids = invoked(dropout=0.5).train(), prompts()
    give_effect(ll.attach(model, ll.LoRA(rank=3, targets="all-linear"), name="plain"))
    with ll.rows(model, ["plain", "call", "call"]):
        logits = model(ids).logits
    with ll.disabled(model):
        base = quiet(model, ids).logits
    assert torch.equal(logits[1, :5], base[1, :5])
    assert torch.equal(logits[2], base[2])
    logits.square().sum().backward()
    for name in ("plain", "call"):
        assert all(parameter.grad.any() for parameter in ll.adapters_of(model).adapter(name).parameters())


def test_checkpointing_changes_no_gradient() -> None:
    model, ids = invoked().train(), prompts()
    adapter, found = ll.adapters_of(model).adapter("call"), []
    for checkpointing in (False, True):
        if checkpointing:
            compute_blocks_again(model)
        model(ids).logits.square().sum().backward()
        found.append([parameter.grad.clone() for parameter in adapter.parameters()])
        model.zero_grad()
    assert ll.adapters_of(model).routing.computed_again
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    for rows in (slice(0, 1), slice(1, 2)):
        model(ids[rows]).logits.square().sum().backward()
    losses = [model(ids[rows]).logits.square().sum() for rows in (slice(0, 1), slice(1, 2))]
    with pytest.raises(ll.AdapterStateError, match="after several calls"):
        sum(losses).backward()


def test_what_it_cannot_do_says_why() -> None:
    model, ids = invoked(), prompts()
    with pytest.raises(ll.AdapterStateError, match=r"from its invocation tokens on.*keep it live"):
        ll.merge(model)
    ll.attach(model, ll.LoRA(rank=1, targets="q_proj"), name="plain")
    with pytest.raises(ll.SpecError, match="from its invocation tokens on"):
        ll.activate(model, ["call", "plain"])
    with pytest.raises(ll.SpecError, match="from its invocation tokens on"):
        ll.combine(model, {"call": 1.0}, name="mix", rank=1)
    ll.activate(model, "call")
    with pytest.raises(ll.AdapterStateError, match="called by itself"):
        model.model.layers[0].mlp(torch.randn(1, 2, 32))
    quiet(model.model, ids)
    with ll.rows(model, ["call", "plain"]), pytest.raises(ll.SpecError, match=r"names 2 sequences.*batch of 3"):
        quiet(model, ids)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"invocation_tokens": []}, "at least one token"),
        ({"invocation_tokens": [3, -1]}, "from 0"),
        ({"invocation_tokens": ["<call>"]}, "a whole number each"),
        ({"bias": "all"}, "bias with invocation_tokens"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save with invocation_tokens"),
        ({"magnitude": True}, "DoRA of some positions"),
        ({"targets": "embed_tokens"}, "embed_tokens is a Embedding"),
    ],
)
def test_a_specification_that_cannot_be(fields: dict[str, Any], words: str) -> None:
    with pytest.raises((ll.SpecError, ll.TargetError), match=words):
        invoked(**fields)


def test_positions_that_are_not_known_are_an_error() -> None:
    starts = Starts(torch.tensor([1, 2]), 3)
    h = torch.zeros(2, 3, 4)
    assert starts.applied(h, h + 1)[:, :, 0].tolist() == [[0, 1, 1], [0, 0, 1]]
    assert starts.applied(h.view(6, 4), h.view(6, 4) + 1)[:, 0].tolist() == [0, 1, 1, 0, 0, 1]
    with pytest.raises(ll.AdapterStateError, match=r"\[2, 1, 4\].*2 sequences of 3 positions"):
        starts.applied(h[:, :1], h[:, :1])


def test_a_detached_one_hears_no_more() -> None:
    model = llama().eval()
    invoked(model)
    other = copy.deepcopy(model)
    ll.detach(model)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert quiet(other, prompts()).logits.shape == quiet(model, prompts()).logits.shape
    assert other is not model


RECURRENT = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": None, "pad_token_id": 0}


def test_a_recurrent_models_cache_is_gone_on_from_or_refused() -> None:
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "attention_mask": torch.ones(3, 9)}
    mamba = MambaForCausalLM(MambaConfig(**RECURRENT, state_size=4))
    model = invoked(mamba, targets=["in_proj", "out_proj"], alpha=40)
    cached = model.generate(prompts(), **settings)
    assert torch.equal(cached, model.generate(prompts(), use_cache=False, **settings))
    rwkv = RwkvForCausalLM(RwkvConfig(**RECURRENT, context_length=64))
    with pytest.raises(ll.AdapterStateError, match="goes on from a 'state'"):
        invoked(rwkv, targets="head").generate(prompts(), **settings)
