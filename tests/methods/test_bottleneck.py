import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import MixtralConfig, MixtralForCausalLM

import loralab as ll
from loralab.methods.bottleneck import BottleneckUpdate
from loralab.methods.counts import parameter_counts
from small_models import build
from toys import give_effect


def update_of(style: str) -> BottleneckUpdate:
    update = BottleneckUpdate(6, 2, style, torch.device("cpu"))
    torch.manual_seed(0)
    for parameter in update.parameters():
        nn.init.normal_(parameter)
    return update


@pytest.mark.parametrize("style", ["houlsby", "lin", "pfeiffer"])
def test_the_equation(style: str) -> None:
    base, update, x = nn.Linear(4, 6), update_of(style), torch.randn(3, 4)
    w = dict(update.added.named_parameters())
    h = base(x)
    seen = {"houlsby": h, "lin": F.layer_norm(h, (6,), w.get("norm_weight"), w.get("norm_bias"))}.get(
        style, (h - h.mean(-1, keepdim=True)) / (h.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    )
    inner = seen @ w["down_weight"].T + w["down_bias"]
    inner = inner * torch.sigmoid(inner) if style == "houlsby" else inner.clamp(min=0)
    torch.testing.assert_close(update(base, x), h + inner @ w["up_weight"].T + w["up_bias"])


@pytest.mark.parametrize("style, places, norm", [("houlsby", 2, 0), ("lin", 1, 2), ("pfeiffer", 1, 0)])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_counts_are_the_papers_formula(name: str, style: str, places: int, norm: int) -> None:
    model, d, r, L = build(name), 32, 4, 3
    adapter = ll.attach(model, ll.BottleneckAdapter(style, size=r))
    assert parameter_counts(adapter, model).method == places * L * (2 * d * r + r + d) + norm * L * d


def test_a_bottleneck_follows_both_sublayers_before_the_residual_sum() -> None:
    adapter = ll.attach(build("gpt2"), ll.BottleneckAdapter("houlsby", size=2))
    assert adapter.matched[:2] == ["transformer.h.0.attn.c_proj", "transformer.h.0.mlp.c_proj"]
    adapter = ll.attach(build("bert"), ll.BottleneckAdapter("lin", size=2))
    assert adapter.matched[0] == "bert.encoder.layer.0.output.dense"


def test_adapterdrop_leaves_the_lowest_blocks_alone() -> None:
    adapter = ll.attach(build("llama"), ll.BottleneckAdapter("pfeiffer", size=2, drop_layers=2))
    assert adapter.matched == ["model.layers.2.mlp.down_proj"]
    with pytest.raises(ll.TargetError, match="drop_layers 3 leaves no block"):
        ll.attach(build("llama"), ll.BottleneckAdapter(drop_layers=3))


def test_modules_of_an_unknown_model_are_named_by_hand() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ll.TargetError, match=r"name the modules by hand.*targets="):
        ll.attach(model, ll.BottleneckAdapter())
    adapter = ll.attach(model, ll.BottleneckAdapter(size=2, targets=["0"]))
    assert adapter.matched == ["0"]


def test_experts_without_an_output_of_their_own_are_refused() -> None:
    config = MixtralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    with pytest.raises(ll.TargetError, match="not a dense layer"):
        ll.attach(MixtralForCausalLM(config), ll.BottleneckAdapter())


def test_half_precision_computes_in_the_models_and_keeps_float32() -> None:
    model = build("llama").to(torch.bfloat16)
    adapter = ll.attach(model, ll.BottleneckAdapter(size=2))
    give_effect(adapter)
    model.to(torch.bfloat16)
    assert model(input_ids=torch.tensor([[3, 4]])).logits.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float32}


def test_rows_of_a_batch_have_their_own() -> None:
    model, ids = build("gpt2"), torch.tensor([[3, 4, 5], [6, 7, 8]])
    give_effect(ll.attach(model, ll.BottleneckAdapter("lin", size=2), name="one"))
    alone = model(input_ids=ids).logits
    with ll.disabled(model):
        base = model(input_ids=ids).logits
    with ll.rows(model, [None, "one"]):
        mixed = model(input_ids=ids).logits
    torch.testing.assert_close(mixed, torch.stack([base[0], alone[1]]))


@pytest.mark.parametrize("fields", [{"style": "other"}, {"size": 0}, {"drop_layers": -1}])
def test_what_cannot_be_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ll.SpecError):
        ll.BottleneckAdapter(**fields)
