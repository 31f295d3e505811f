"""Tied-LoRA: which tensors are one, which train, and what it becomes at its edges."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import loralab as ll
from loralab.core.adapter import SHARED, Adapter
from methods.low_rank_cases import close, kind_of, quiet_logits
from small_models import build, gpt2, llama, logits
from toys import give_effect, quiet

RANK = 3


def stack(count: int = 2, width: int = 8) -> nn.Module:
    """Layers of equal shape, one after another."""
    return nn.ModuleDict({"blocks": nn.ModuleList(nn.ModuleDict({"up": nn.Linear(width, 12)}) for _ in range(count))})


def on_stack(model: nn.Module, **fields: object) -> Adapter:
    """Tied-LoRA on all layers of a stack."""
    return ll.attach(model, ll.TiedLoRA(**{"rank": RANK, "targets": ["up"], **fields}))


def pointers(adapter: Adapter, kind: str) -> set[int]:
    """Where the A or the B that the layers compute with are stored."""
    field = {"A": "a", "B": "b"}[kind]
    deltas = [update.delta_of(part) for update in adapter.updates.values() for part in update.parts]
    return {delta.shared.matrix(getattr(delta, field)).data_ptr() for delta in deltas}


def test_layers_of_one_kind_share_a_and_b() -> None:
    adapter = on_stack(stack(4))
    assert len(pointers(adapter, "A")) == len(pointers(adapter, "B")) == 1
    assert sorted(kind_of(name) for name in adapter.state_dict()) == ["A", "B", *["tied_v"] * 4, *["u"] * 4]


def test_queries_keys_and_values_share_a_and_u_and_have_a_b_each() -> None:
    """As in the fused projection of the paper, one A reads the attention's input."""
    for model, projections in ((llama(), "q_proj k_proj v_proj"), (gpt2(), "c_attn[q,k,v]")):
        adapter = ll.attach(model, ll.TiedLoRA(rank=RANK, targets=projections.split()))
        kinds = [kind_of(name) for name in adapter.state_dict()]
        assert [kinds.count(kind) for kind in ("A", "B", "u", "tied_v")] == [1, 3, 3, 9]
        assert len(pointers(adapter, "A")) == 1
        assert len(pointers(adapter, "B")) == 3


def test_other_layers_are_tied_by_name_and_shape() -> None:
    adapter = ll.attach(llama(), ll.TiedLoRA(rank=RANK, targets=["o_proj", "gate_proj", "up_proj", "down_proj"]))
    kinds = [kind_of(name) for name in adapter.state_dict()]
    assert [kinds.count(kind) for kind in ("A", "B", "u", "tied_v")] == [4, 4, 12, 12]


def test_layers_of_one_name_and_two_shapes_are_not_tied() -> None:
    model = nn.ModuleDict({"a": stack(2, width=8), "b": stack(2, width=10)})
    adapter = on_stack(model)
    assert len(pointers(adapter, "A")) == len(pointers(adapter, "B")) == 2


def test_what_is_tied_is_tied_still_in_a_copy_and_after_a_cast() -> None:
    model = stack(3)
    on_stack(model)
    adapter = ll.adapters_of(copy.deepcopy(model).double()).adapter("default")
    assert len(pointers(adapter, "A")) == 1
    assert pointers(adapter, "A") == {adapter.state_dict()[f"{SHARED}.A/up/8"].data_ptr()}


def test_every_layers_gradient_reaches_the_shared_factors() -> None:
    model = stack(2)
    adapter = on_stack(model)
    give_effect(adapter)
    x, gradients = torch.randn(4, 8), []
    A = dict(adapter.named_parameters())[f"{SHARED}.A/up/8"]
    for blocks in ((0,), (1,), (0, 1)):
        A.grad = None
        sum(model["blocks"][block]["up"](x).square().sum() for block in blocks).backward()
        gradients.append(A.grad.clone())
    close(gradients[2], gradients[0] + gradients[1], 1e-5)
    assert all(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("train", ["A,B,u,v", "A,B", "u,v", "A,u,v", "B", "v", "A,B,v", "B,u", "A,v"])
def test_exactly_the_parts_named_train_and_the_start_is_not_dead(train: str) -> None:
    torch.manual_seed(1)
    model = build("llama")
    adapter = ll.attach(model, ll.TiedLoRA(rank=RANK, train=train))
    before = quiet_logits(model)
    expected = {{"v": "tied_v"}.get(part, part) for part in train.split(",")}
    assert {kind_of(name) for name, _ in adapter.named_parameters()} == expected
    state = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # what the zero factor silences in the first step moves in the second
        optimizer.zero_grad()
        logits(model).square().sum().backward()
        optimizer.step()
    moved = {name for name, tensor in adapter.state_dict().items() if not torch.equal(tensor, state[name])}
    assert moved == {name for name, _ in adapter.named_parameters()}
    assert (quiet_logits(model) - before).abs().max() > 1e-4


def test_frozen_a_and_b_and_v_at_zero_are_vera() -> None:
    model = stack(2)
    twin = copy.deepcopy(model)
    tied = on_stack(model, train="u,v")
    vera = ll.attach(twin, ll.VeRA(rank=RANK, targets=["up"], d_initial=1.0))
    state = tied.state_dict()
    translated = {f"{SHARED}.vera_A": state[f"{SHARED}.A/up/8"], f"{SHARED}.vera_B": state[f"{SHARED}.B/up/12x8"]}
    for block in range(2):
        path = f"blocks.{block}.up"
        translated[f"{path}.vera_lambda_d"] = state[f"{SHARED}.u/blocks/{block}/up"]
        translated[f"{path}.vera_lambda_b"] = state[f"{path}.tied_v"]
    vera.load_state_dict(translated)
    x = torch.randn(4, 8)
    both = [parameters_of(tied), parameters_of(vera)]
    for _ in range(3):
        for network, parameters in ((model, both[0]), (twin, both[1])):
            loss = sum(network["blocks"][block]["up"](x).square().sum() for block in range(2))
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.data.sub_(gradient, alpha=0.01)
    for block in range(2):
        mine, theirs = (network["blocks"][block]["up"] for network in (model, twin))
        close(quiet(mine, x), quiet(theirs, x), 1e-5)
        assert (quiet(mine, x) - quiet(mine.base, x)).abs().max() > 1e-3


def parameters_of(adapter: Adapter) -> list[nn.Parameter]:
    """What scales the inputs of each block, then what scales its outputs."""
    named = list(adapter.named_parameters())
    inner = [parameter for name, parameter in named if name.startswith(SHARED) or name.endswith("lambda_d")]
    outer = [parameter for name, parameter in named if name.endswith(("tied_v", "lambda_b"))]
    assert len(inner) == len(outer) == 2
    return [*inner, *outer]


@pytest.mark.parametrize("alpha", [None, 5.0])
def test_one_layer_with_vectors_of_ones_is_lora(alpha: float | None) -> None:
    model, x = stack(1), torch.randn(4, 8)
    twin = copy.deepcopy(model)
    tied = on_stack(model, alpha=alpha)
    lora = ll.attach(twin, ll.LoRA(rank=RANK, alpha=alpha or RANK, targets=["up"]))
    A, B = (torch.randn(RANK, 8), torch.randn(12, RANK))
    lora.load_state_dict({"blocks.0.up.lora_A": A, "blocks.0.up.lora_B": B})
    named = dict(tied.named_parameters())
    with torch.no_grad():
        named[f"{SHARED}.A/up/8"].copy_(A)
        named[f"{SHARED}.B/up/12x8"].copy_(B)
    layers = model["blocks"][0]["up"], twin["blocks"][0]["up"]
    close(quiet(layers[0], x), quiet(layers[1], x), 1e-6)
    assert (quiet(layers[0], x) - quiet(layers[0].base, x)).abs().max() > 0.1


def test_alpha_is_the_rank_unless_it_is_given() -> None:
    assert ll.TiedLoRA(rank=5).recipe("x").scale == 1.0
    assert ll.TiedLoRA(rank=4, alpha=2.0).recipe("x").scale == 0.5


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"train": "A,C"}, "A,C"),
        ({"train": "A,B,A"}, "each once"),
        ({"train": "A,u"}, "without B or v"),
        ({"train": ()}, "without B or v"),
        ({"rank": 0}, "rank is 0"),
        ({"alpha": float("nan")}, "alpha is nan"),
    ],
)
def test_what_cannot_be_is_refused_at_once(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ll.SpecError, match=said):
        ll.TiedLoRA(**wrong)


def test_shared_matrices_come_back_in_full_precision_and_as_copies(tmp_path: Path) -> None:
    model = build("llama").double()
    adapter = ll.attach(model, ll.TiedLoRA(rank=2, train="A,B"))
    model.double()
    give_effect(adapter)
    values = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    ll.save(adapter, tmp_path, model=model)
    written = (tmp_path / "adapter_model.safetensors").read_bytes()
    ll.detach(model)
    loaded = ll.load(model, tmp_path)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in values.items())
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1)
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == written
