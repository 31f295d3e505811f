"""What the specification admits, and what it plans for real architectures."""

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)  # fmt: skip

import loralab as ll
from toys import give_effect

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=24, num_key_value_heads=1))


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=16))


def bert() -> nn.Module:
    return BertForSequenceClassification(BertConfig(**SMALL, intermediate_size=24, num_labels=3))


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": 2.5}, "rank is 2.5"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"init": "zeros"}, "init is 'zeros'"),
        ({"targets": " , "}, "targets is empty"),
        ({"rank_pattern": {"q_proj": -1}}, "q_proj"),
    ],
)
def test_what_cannot_be_is_refused_at_once(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ll.SpecError, match=said):
        ll.LoRA(**wrong)


def test_all_problems_are_listed_together() -> None:
    with pytest.raises(ValueError, match=r"rank is 0.*dropout is 2"):
        ll.LoRA(rank=0, dropout=2)


def test_by_default_q_and_v_of_the_family() -> None:
    assert ll.attach(llama(), ll.LoRA(rank=2)).matched[:2] == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.v_proj",
    ]
    adapter = ll.attach(gpt2(), ll.LoRA(rank=4))
    assert adapter.matched == ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]
    assert sum(p.numel() for p in adapter.parameters()) == 2 * 2 * (4 * 16 + 16 * 4)


def test_fused_slices_leave_the_other_rows_alone() -> None:
    model = BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=1, n_head=2, vocab_size=40))
    adapter = ll.attach(model, ll.LoRA(rank=2, targets="query_key_value[q,v]"))
    give_effect(adapter)
    (layer,) = ll.adapters_of(model).layers.values()
    (update,) = adapter.updates.values()
    D = update.deltas(layer.base)["weight"].view(2, 3, 8, 16)  # BLOOM: heads, then q, k, v of each
    assert D[:, 0].abs().min() > 0
    assert D[:, 2].abs().min() > 0
    assert not D[:, 1].any()


def test_all_linear_is_every_dense_layer_but_the_head() -> None:
    matched = ll.attach(llama(), ll.LoRA(rank=2, targets="all-linear")).matched
    assert len(matched) == 2 * 7
    assert not any("lm_head" in path for path in matched)
    assert not any("classifier" in path for path in ll.attach(bert(), ll.LoRA(rank=2, targets="all-linear")).matched)


def test_aliases_reach_plain_attention_modules() -> None:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(16, 2), "mlp": nn.Linear(16, 16)})
    adapter = ll.attach(model, ll.LoRA(rank=2, targets=["q", "v"]))
    assert [name for name, _ in adapter.named_parameters()] == [
        f"attention.{part}.lora_{factor}" for part in "qv" for factor in "AB"
    ]
    ll.detach(model)
    assert set(ll.attach(model, ll.LoRA(rank=2, targets="all-linear")).matched) == {"attention", "mlp"}


def test_an_unknown_model_needs_targets() -> None:
    with pytest.raises(ll.TargetError, match=r"targets|name"):
        ll.attach(nn.Sequential(nn.Linear(4, 4)), ll.LoRA(rank=2))


def test_patterns_set_rank_and_alpha_by_module() -> None:
    spec = ll.LoRA(
        rank=2, alpha=4, targets="attention", rank_pattern={"v_proj": 5}, alpha_pattern={r"layers\.1\..*": 1}
    )
    adapter = ll.attach(llama(), spec)
    recipes = {path: update.parts["weight"].recipe for path, update in adapter.updates.items()}
    assert recipes["model.layers.0.self_attn.v_proj"].rank == 5
    assert recipes["model.layers.0.self_attn.q_proj"].scale == 2.0
    assert recipes["model.layers.1.self_attn.q_proj"].scale == 0.5
    with pytest.raises(ll.TargetError, match="rank_pattern key 'up_proj'"):
        ll.attach(llama(), ll.LoRA(targets="q", rank_pattern={"up_proj": 4}))


def test_layers_and_exclude_narrow_the_targets() -> None:
    spec = ll.LoRA(rank=2, targets="all-linear", layers=[1], exclude="mlp\\..*|.*mlp.*")
    assert {path.split(".")[2] for path in ll.attach(llama(), spec).matched} == {"1"}
    assert not any("mlp" in path for path in ll.attach(llama(), spec).matched)


@pytest.mark.parametrize("which, expected", [("none", 0), ("lora_only", 2 * 2), ("all", 2 * 8 + 2)])
def test_biases_train_as_asked(which: str, expected: int) -> None:
    adapter = ll.attach(bert(), ll.LoRA(rank=2, targets=["query", "value"], bias=which, modules_to_save=["classifier"]))
    biases = [name for name, _ in adapter.named_parameters() if name.endswith("bias") and "classifier" not in name]
    assert len(biases) == expected


def test_a_trained_bias_works_live_merged_and_disabled() -> None:
    model, tokens = bert().eval(), torch.randint(0, 40, (2, 5))
    with torch.no_grad():
        base = model(tokens).logits
        give_effect(ll.attach(model, ll.LoRA(rank=2, bias="all")))
        live = model(tokens).logits
        assert (live - base).abs().max() > 1e-3
        ll.merge(model)
        torch.testing.assert_close(model(tokens).logits, live, atol=1e-5, rtol=1e-5)
        ll.unmerge(model)
        with ll.disabled(model):
            assert torch.equal(model(tokens).logits, base)


def test_a_classification_head_is_found_and_trained_in_full() -> None:
    adapter = ll.attach(bert(), ll.LoRA(rank=2))
    assert {name for name, _ in adapter.named_parameters()} >= {"classifier.weight", "classifier.bias"}
    assert "classifier" not in adapter.matched
    config = LlamaConfig(**SMALL, intermediate_size=24, num_labels=2, pad_token_id=0)
    adapter = ll.attach(LlamaForSequenceClassification(config), ll.LoRA(rank=2))
    assert "score.weight" in dict(adapter.named_parameters())
    assert not any("lm_head" in name for name, _ in ll.attach(llama(), ll.LoRA(rank=2)).named_parameters())


def test_modules_to_save_are_copies_and_the_base_head_stays() -> None:
    model = bert()
    before = model.classifier.weight.clone()
    give_effect(ll.attach(model, ll.LoRA(rank=2)))
    ll.detach(model)
    assert torch.equal(model.classifier.weight, before)
    with pytest.raises(ll.TargetError, match="'pooling'"):
        ll.attach(model, ll.LoRA(rank=2, modules_to_save=["pooling"]))
    with pytest.raises(ll.TargetError, match="'dropout', which has no tensors"):
        ll.attach(model, ll.LoRA(rank=2, modules_to_save=["dropout"]))
    with pytest.raises(ll.SpecError, match="both"):
        ll.attach(model, ll.LoRA(rank=2, targets=["query"], modules_to_save=["query"]))


def test_dropout_is_refused_where_there_is_no_path_for_it() -> None:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(16, 2)})
    with pytest.raises(ll.SpecError, match="dropout"):
        ll.attach(model, ll.LoRA(rank=2, targets="attention", dropout=0.1))


def test_parts_of_an_unknown_projection_need_a_description() -> None:
    model = nn.ModuleDict({"qv": nn.Linear(4, 10)})
    with pytest.raises(ll.TargetError, match="fused"):
        ll.attach(model, ll.LoRA(rank=2, targets="qv[q]"))
    spec = ll.LoRA(rank=2, targets="qv[v]", fused={"qv": {"q": range(6), "v": range(6, 10)}})
    update = ll.attach(model, spec).updates["qv"]
    give_effect(ll.adapters_of(model).adapter("default"))
    assert not update.deltas(model["qv"].base)["weight"][:6].any()
