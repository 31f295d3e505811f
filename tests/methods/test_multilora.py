"""MultiLoRA: several pairs behind gates from zero."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

import loralab as ll
from loralab.core.adapter import Adapter
from loralab.core.updates.update import WHOLE
from methods.low_rank_cases import close
from toys import give_effect, quiet

RANK, MODULES, OUTPUTS, INPUTS = 4, 3, 10, 12


def on_one_layer(**fields: object) -> tuple[nn.Module, Adapter]:
    """(a model of one layer, MultiLoRA on it)."""
    model = nn.ModuleDict({"layer": nn.Linear(INPUTS, OUTPUTS)}).eval()
    spec = {"rank": RANK, "modules": MODULES, "alpha": 6.0, "targets": ["layer"], **fields}
    return model, ll.attach(model, ll.MultiLoRA(**spec))


@pytest.mark.parametrize("gate", ["vector", "scalar"])
def test_every_module_has_its_gate(gate: str) -> None:
    """y = W·x + b + s·Σ e_k ⊙ (B_k·(A_k·x)), module by module."""
    model, adapter = on_one_layer(gate=gate)
    give_effect(adapter, std=0.5)
    A, B, e = (adapter.state_dict()[f"layer.lora_{name}"] for name in ("A", "B", "scaling"))
    assert (A.shape, B.shape) == ((MODULES, RANK, INPUTS), (MODULES, OUTPUTS, RANK))
    assert e.shape == (MODULES, OUTPUTS if gate == "vector" else 1)
    x = torch.randn(5, INPUTS)
    added = sum(6.0 / RANK * e[k] * (x @ A[k].T @ B[k].T) for k in range(MODULES))
    close(quiet(model["layer"], x), quiet(model["layer"].base, x) + added, 1e-5)
    assert added.abs().max() > 0.1


def test_both_factors_start_at_random_and_the_gates_closed() -> None:
    torch.manual_seed(2)
    model = nn.ModuleDict({"layer": nn.Linear(300, 200)})
    state = ll.attach(model, ll.MultiLoRA(rank=16, modules=2, targets=["layer"])).state_dict()
    for factor, fan_in in (("A", 300), ("B", 16)):
        bound = 1 / math.sqrt(fan_in)
        for values in state[f"layer.lora_{factor}"].flatten(1):
            assert stats.kstest(values, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3
    assert not state["layer.lora_scaling"].any()


def test_gates_open_first_and_the_factors_follow() -> None:
    model, adapter = on_one_layer()
    before = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    x, optimizer = torch.randn(5, INPUTS), torch.optim.SGD(adapter.parameters(), lr=0.1)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        model["layer"](x).square().sum().backward()
        optimizer.step()
        moved.append({name for name, tensor in adapter.state_dict().items() if not torch.equal(tensor, before[name])})
    assert moved[0] == {"layer.lora_scaling"}
    assert moved[1] == set(before)


@pytest.mark.parametrize("stabilized", [False, True])
def test_its_plain_lora_of_the_whole_rank_is_the_merged_weight(stabilized: bool) -> None:
    model, adapter = on_one_layer(rank_stabilized=stabilized)
    give_effect(adapter, std=0.5)
    plain = adapter.updates["layer"].delta_of(WHOLE).as_lora()
    assert plain.recipe.rank == MODULES * RANK
    assert plain.recipe.alpha == pytest.approx(6.0 * (math.sqrt(MODULES) if stabilized else MODULES))
    W = model["layer"].base.weight.detach().clone()
    ll.merge(model)
    close(W + plain.recipe.scale * plain.lora_B @ plain.lora_A, model["layer"].base.weight, 1e-6)
    assert torch.linalg.matrix_rank(plain.lora_B @ plain.lora_A) == OUTPUTS  # more than any single module's


def test_one_module_with_an_open_gate_is_lora() -> None:
    model, adapter = on_one_layer(modules=1)
    state = adapter.state_dict()
    with torch.no_grad():
        dict(adapter.named_parameters())["layer.lora_scaling"].fill_(1.0)
    x = torch.randn(5, INPUTS)
    lora = nn.ModuleDict({"layer": model["layer"].base})
    plain = ll.attach(lora, ll.LoRA(rank=RANK, alpha=6.0, targets=["layer"]))
    plain.load_state_dict({f"layer.lora_{factor}": state[f"layer.lora_{factor}"][0] for factor in "AB"})
    close(quiet(model["layer"], x), quiet(lora["layer"], x), 1e-6)
    assert (quiet(model["layer"], x) - quiet(model["layer"].base, x)).abs().max() > 1e-2


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"modules": 0}, "modules is 0"),
        ({"gate": "matrix"}, "gate is 'matrix'"),
        ({"rank": 1.5}, "rank is 1.5"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"dropout": -0.1}, "dropout is -0.1"),
    ],
)
def test_what_cannot_be_is_refused_at_once(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ll.SpecError, match=said):
        ll.MultiLoRA(**wrong)
