"""The lean leaf functions against the modules they stand in for."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from loralab.core.attach import attach
from loralab.methods.lora import LoRA
from loralab.models.fast.lean import lean_leaves, rms_norm, swiglu

WIDE: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "vocab_size": 60,
}  # fmt: skip


def test_gradients_by_finite_differences() -> None:
    x, gate, up = (torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True) for _ in range(3))
    weight = torch.randn(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda each: rms_norm(each, weight, 1e-5), (x,))
    assert torch.autograd.gradcheck(swiglu, (gate, up))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_is_transformers_own(dtype: torch.dtype) -> None:
    module = LlamaRMSNorm(32).to(dtype).requires_grad_(False)
    module.weight.normal_()
    x = torch.randn(4, 32, dtype=dtype, requires_grad=True)
    ours, theirs = rms_norm(x, module.weight, module.variance_epsilon), module(x)
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    found, expected = torch.autograd.grad(ours.sum(), x)[0], torch.autograd.grad(theirs.sum(), x)[0]
    torch.testing.assert_close(found, expected, rtol=4 * tolerance, atol=4 * tolerance)


def test_swiglu_is_transformers_own() -> None:
    gate, up = torch.randn(4, 8), torch.randn(4, 8)
    torch.testing.assert_close(swiglu(gate, up), F.silu(gate) * up)


def test_adapted_model_computes_the_same_and_is_put_back() -> None:
    model = LlamaForCausalLM(LlamaConfig(**WIDE))
    adapter = attach(model, LoRA(rank=2, targets="all-linear"))
    for name, parameter in adapter.named_parameters():
        if name.endswith("B"):
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.randint(0, 60, (2, 7))
    parameters = list(adapter.parameters())
    before = torch.autograd.grad(model(input_ids=ids).logits.square().sum(), parameters)
    with lean_leaves(model) as count:
        assert count == 2 * 3 + 1, "two norms and a gate in each of two layers, and the last norm"
        inside = torch.autograd.grad(model(input_ids=ids).logits.square().sum(), parameters)
    assert not any("forward" in vars(module) for module in model.modules())
    for found, expected in zip(inside, before, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_norms_that_compute_something_else_or_train_are_left_alone() -> None:
    gemma = GemmaForCausalLM(GemmaConfig(**WIDE, head_dim=8)).requires_grad_(False)
    with lean_leaves(gemma) as count:
        assert count == 0
    trained = LlamaForCausalLM(LlamaConfig(**WIDE))
    with lean_leaves(trained) as count:
        assert count == 2, "the gates alone: the norms' weights train"


def test_a_norm_that_an_adapter_trains_in_full_still_gets_its_gradient() -> None:
    model = LlamaForCausalLM(LlamaConfig(**WIDE))
    adapter = attach(model, LoRA(rank=2, modules_to_save=["model.norm"]))
    with lean_leaves(model):
        model(input_ids=torch.randint(0, 60, (2, 7))).logits.square().sum().backward()
    assert dict(adapter.named_parameters())["model.norm.weight"].grad.any()


def test_gates_computed_again_give_the_same_gradients_and_keep_less() -> None:
    model, ids = LlamaForCausalLM(LlamaConfig(**WIDE)), torch.randint(0, 60, (2, 7))
    adapter = attach(model, LoRA(rank=2, targets="all-linear", dropout=0.2))
    for name, parameter in adapter.named_parameters():
        if name.endswith("B"):
            torch.nn.init.normal_(parameter, std=0.1)
    gradients, kept = [], []
    for again in (False, True):
        sizes: list[int] = []
        with lean_leaves(model, recompute_gates=again):
            torch.manual_seed(0)
            with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
                loss = model.train()(input_ids=ids).logits.square().sum()
            gradients.append(torch.autograd.grad(loss, list(adapter.parameters())))
        kept.append(sum(sizes))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)
    assert kept[1] < kept[0]
