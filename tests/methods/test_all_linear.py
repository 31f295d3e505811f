"""What `all-linear` takes on models with experts and with layers that only look dense, and what is said before."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

import loralab as ll
from loralab.planning.config import PlanConfig
from loralab.planning.plan import plan
from small_models import SIZES, bert, deberta, gpt2, llama

MOE = {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}


def mixtral() -> nn.Module:
    return MixtralForCausalLM(MixtralConfig(**MOE, num_local_experts=4))


def qwen3() -> nn.Module:
    sizes = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**MOE, **sizes))


def llama4() -> nn.Module:
    sizes = {"num_local_experts": 4, "interleave_moe_layer_step": 1, "intermediate_size_mlp": 48}
    return Llama4ForCausalLM(Llama4TextConfig(**MOE, **sizes))


def gpt_oss() -> nn.Module:
    return GptOssForCausalLM(GptOssConfig(**MOE, num_local_experts=4, num_experts_per_tok=2))


def vit() -> nn.Module:
    return ViTForImageClassification(ViTConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                                               num_attention_heads=4, image_size=8, patch_size=4))  # fmt: skip


MODELS = {"mixtral": mixtral, "qwen3": qwen3, "llama4": llama4, "gpt-oss": gpt_oss}
models = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())


@models
def test_experts_that_are_left_out_are_said_and_can_be_named_beside(build: Callable[[], nn.Module]) -> None:
    model = build()
    adapter = ll.attach(model, ll.LoRA(rank=2, targets="all-linear"))
    numbers = sum(each.numel() for name, each in model.named_parameters() if "experts" in name and each.dim() == 3)
    (note,) = [note for note in adapter.notes if "experts" in note]
    assert f"({numbers:,} numbers)" in note
    ll.detach(model)
    named = note.rpartition(": ")[2]
    assert named == "all-linear,experts.gate_up_proj,experts.down_proj"
    more = ll.attach(model, ll.LoRA(rank=2, targets=named))
    assert {path for path in more.matched if path.endswith("experts")}
    assert not [note for note in more.notes if "stack" in note]


@pytest.mark.parametrize(("build", "router"), [(mixtral, "mlp.gate"), (qwen3, "mlp.gate"), (gpt_oss, "mlp.router")])
def test_routers_that_are_no_layers_are_said_too(build: Callable[[], nn.Module], router: str) -> None:
    (note,) = ll.attach(build(), ll.LoRA(rank=2, targets="all-linear")).notes
    assert f"their routers model.layers.*.{router}.weight" in note


def test_one_of_two_stacks_that_is_named_leaves_the_other_to_be_said() -> None:
    (note,) = ll.attach(mixtral(), ll.LoRA(rank=2, targets="all-linear,experts.down_proj")).notes
    assert "experts.gate_up_proj," in note
    assert "experts.down_proj" not in note


def test_a_router_that_returns_a_tuple_is_left_out_and_the_model_runs() -> None:
    model = llama4().eval()
    ids = torch.arange(3, 13)[None]
    before = model(input_ids=ids).logits
    adapter = ll.attach(model, ll.LoRA(rank=2, targets="all-linear"))
    assert torch.equal(model(input_ids=ids).logits, before)
    assert not [path for path in adapter.matched if path.endswith("router")]
    assert any("feed_forward.router (Llama4Router)" in note for note in adapter.notes)


class Scored(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(-1).topk(1).values


class Same(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def test_layers_go_by_what_they_give_and_not_by_their_class() -> None:
    model = nn.ModuleDict({"plain": nn.Linear(4, 6), "same": Same(4, 6), "scored": Scored(4, 6)})
    state = torch.get_rng_state()
    adapter = ll.attach(model, ll.LoRA(rank=2, targets="all-linear"))
    assert adapter.matched == ["plain", "same"]
    assert adapter.notes == ["all-linear leaves out scored (Scored), whose output is no plain product with its weight"]
    ll.detach(model)
    torch.set_rng_state(state)
    del model["scored"]
    again = ll.attach(model, ll.LoRA(rank=2, targets="all-linear"))
    assert all(torch.equal(one, other) for one, other in zip(adapter.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("build", [llama, gpt2, bert, deberta, vit])
def test_models_without_experts_have_nothing_to_say(build: Callable[[], nn.Module]) -> None:
    assert not [
        note for note in ll.attach(build(), ll.LoRA(rank=2, targets="all-linear")).notes if "all-linear" in note
    ]


@models
def test_a_plan_counts_and_says_the_same(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = build()
    model.config.save_pretrained(tmp_path)
    planned = plan(PlanConfig(model=str(tmp_path), rank=2, targets="all-linear"))
    adapter = ll.attach(model, ll.LoRA(rank=2, targets="all-linear"))
    assert planned.trainable_params == sum(each.numel() for each in adapter.parameters())
    assert set(adapter.notes) <= set(planned.notes)
    assert adapter.notes
