"""The lean leaf functions against the modules they stand in for."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from loralab.core.attach import attach
from loralab.methods.lora import LoRA
from loralab.models.fast.activation import ACTIVATIONS, Activation, activation_of
from loralab.models.fast.gated import gated
from loralab.models.fast.lean import Leaves, lean_leaves
from loralab.models.fast.rms_norm import GAINS, rms_norm

WIDE: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "vocab_size": 60,
}  # fmt: skip


def test_gradients_by_finite_differences() -> None:
    x = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, dtype=torch.float64)
    for gain in GAINS:
        assert torch.autograd.gradcheck(lambda each, gain=gain: rms_norm(each, weight, 1e-5, gain), (x,))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda each: each.name)
def test_gradients_of_gates_by_finite_differences(activation: Activation) -> None:
    gate, up = (torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda g, u: gated(g, u, activation), (gate, up))


@pytest.mark.parametrize(
    ("name", "found"),
    {
        "silu": "silu",
        "gelu": "gelu",
        "gelu_python": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "quick_gelu": "quick_gelu",
        "relu": "relu",
        "relu2": None,
        "tanh": None,
        "mish": None,
    }.items(),
)
def test_a_function_is_known_by_what_it_gives(name: str, found: str | None) -> None:
    known = activation_of(ACT2FN[name])
    assert (known.name if known else None) == found


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast", "gelu_python", "quick_gelu"])
def test_activations_of_many_operations_become_one(name: str) -> None:
    model, x = nn.Sequential(ACT2FN[name]), torch.randn(4, 7, requires_grad=True)
    plain = model(x)
    with lean_leaves(model) as leaves:
        lean = model(x)
    assert leaves == Leaves(activations=1)
    torch.testing.assert_close(lean, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*(torch.autograd.grad(each.sum(), x)[0] for each in (lean, plain)), rtol=1e-5, atol=1e-5)


def test_what_more_than_the_known_arguments_asks_for_is_the_modules_own() -> None:
    class Scaled(LlamaRMSNorm):
        def forward(self, hidden_states: Tensor, scale: float = 1.0) -> Tensor:
            return scale * super().forward(hidden_states)

    module, x = Scaled(8).requires_grad_(False), torch.randn(3, 8)
    with lean_leaves(module) as leaves:
        assert leaves.norms == 1
        torch.testing.assert_close(module(x, scale=2.0), 2 * module(x))


def test_another_epsilon_is_not_overlooked() -> None:
    class Clamped(LlamaRMSNorm):
        """Says one ε and takes another."""

        def forward(self, hidden_states: Tensor) -> Tensor:
            return F.rms_norm(hidden_states, (8,), self.weight, 10 * self.variance_epsilon)

    with lean_leaves(Clamped(8).requires_grad_(False)) as leaves:
        assert leaves == Leaves()


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


def test_adapted_model_computes_the_same_and_is_put_back() -> None:
    model = LlamaForCausalLM(LlamaConfig(**WIDE))
    adapter = attach(model, LoRA(rank=2, targets="all-linear"))
    for name, parameter in adapter.named_parameters():
        if name.endswith("B"):
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.randint(0, 60, (2, 7))
    parameters = list(adapter.parameters())
    before = torch.autograd.grad(model(input_ids=ids).logits.square().sum(), parameters)
    with lean_leaves(model) as leaves:
        assert leaves == Leaves(norms=5, gates=2)
        inside = torch.autograd.grad(model(input_ids=ids).logits.square().sum(), parameters)
    assert not any("forward" in vars(module) for module in model.modules())
    for found, expected in zip(inside, before, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_norms_that_train_are_left_alone() -> None:
    with lean_leaves(LlamaForCausalLM(LlamaConfig(**WIDE))) as leaves:
        assert leaves == Leaves(gates=2)


def test_the_sentence_names_what_there_is() -> None:
    assert str(Leaves(norms=5, gates=2)) == "5 norms, 2 gates"
    assert str(Leaves()) == "no norm, gate or activation"


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
