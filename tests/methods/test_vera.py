"""VeRA: projections drawn once for the whole model, and two vectors in each layer."""

import copy
import math
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import nn

import loralab as ll
from loralab.core.adapter import SHARED, Adapter
from loralab.core.updates.factors import Spot
from loralab.core.updates.update import WHOLE
from loralab.methods.vera import A_NAME, B_NAME, LAMBDA_B, LAMBDA_D, ScaledProjections, projections
from methods.low_rank_cases import close
from small_models import llama, logits
from toys import give_effect, quiet

SHARED_A, SHARED_B = f"{SHARED}.{A_NAME}", f"{SHARED}.{B_NAME}"


def two_layers() -> nn.Module:
    """Dense layers of the specification's shapes, 100×20 and 80×50."""
    return nn.ModuleDict({"tall": nn.Linear(20, 100), "wide": nn.Linear(50, 80)})


def on_two_layers(**fields: object) -> tuple[nn.Module, Adapter]:
    """(the model, VeRA of rank 6 on both layers)."""
    model = two_layers()
    return model, ll.attach(model, ll.VeRA(**{"rank": 6, "targets": ["tall", "wide"], **fields}))


def test_layers_use_a_corner_of_projections_for_the_widest() -> None:
    model, adapter = on_two_layers()
    give_effect(adapter, std=1.0)
    state = adapter.state_dict()
    A, B = state[SHARED_A], state[SHARED_B]
    assert (A.shape, B.shape) == ((6, 50), (100, 6))
    for name, outputs, inputs in (("tall", 100, 20), ("wide", 80, 50)):
        d, b = state[f"{name}.{LAMBDA_D}"], state[f"{name}.{LAMBDA_B}"]
        assert (d.shape, b.shape) == ((6,), (outputs,))
        D = b[:, None] * (B[:outputs] @ (d[:, None] * A[:, :inputs]))
        x, base = torch.randn(3, inputs), adapter.layers[name].base
        close(quiet(model[name], x), quiet(base, x) + x @ D.T, 1e-5)


def test_projections_are_one_pair_of_tensors_and_stay() -> None:
    model = llama()
    adapter = ll.attach(model, ll.VeRA(rank=40, targets="all-linear"))
    give_effect(adapter)
    deltas = [update.delta_of(WHOLE) for update in adapter.updates.values()]
    assert all(isinstance(delta, ScaledProjections) for delta in deltas)
    for name in (A_NAME, B_NAME):
        assert len({delta.shared.matrix(name).data_ptr() for delta in deltas}) == 1
    before = {name: adapter.state_dict()[name].clone() for name in (SHARED_A, SHARED_B)}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        logits(model).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(adapter.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(adapter.state_dict()[f"{path}.{LAMBDA_B}"].any() for path in adapter.updates)


def test_a_copied_or_moved_model_still_has_one_pair() -> None:
    model, _ = on_two_layers()
    twin = copy.deepcopy(model).double()
    adapter = ll.adapters_of(twin).adapter("default")
    pointers = {update.delta_of(WHOLE).shared.matrix(A_NAME).data_ptr() for update in adapter.updates.values()}
    assert pointers == {adapter.state_dict()[SHARED_A].data_ptr()}


def test_adapters_with_equal_projections_hold_them_once(tmp_path: Path) -> None:
    model, first = on_two_layers()
    again = ll.attach(model, first.spec, "again")
    other = ll.attach(model, ll.VeRA(rank=6, targets=["tall", "wide"], projection_seed=1), "other")
    loaded = ll.load(model, ll.save(again, tmp_path), name="loaded")
    for name in (SHARED_A, SHARED_B):
        same = first.state_dict()[name].data_ptr()
        assert same == again.state_dict()[name].data_ptr() == loaded.state_dict()[name].data_ptr()
        assert same != other.state_dict()[name].data_ptr()
    assert first.state_dict()[f"tall.{LAMBDA_D}"].data_ptr() != again.state_dict()[f"tall.{LAMBDA_D}"].data_ptr()


def test_other_projections_loaded_into_one_adapter_leave_the_others_alone() -> None:
    model, first = on_two_layers()
    again = ll.attach(model, first.spec, "again")
    before = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    _, foreign = on_two_layers(projection_seed=1)
    give_effect(foreign, std=1.0)
    again.load_state_dict(foreign.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in first.state_dict().items())
    assert all(torch.equal(tensor, foreign.state_dict()[name]) for name, tensor in again.state_dict().items())
    x = torch.randn(3, 20)
    foreign_layer, base = foreign.layers["tall"], again.layers["tall"].base
    change = quiet(foreign_layer, x) - quiet(foreign_layer.base, x)
    close(quiet(model["tall"], x), quiet(base, x) + change, 1e-5)


def test_seeds_of_projections_are_their_own() -> None:
    torch.manual_seed(1)
    first = on_two_layers()[1].state_dict()
    torch.manual_seed(2)
    again = on_two_layers()[1].state_dict()
    other = on_two_layers(projection_seed=1)[1].state_dict()
    for name in (SHARED_A, SHARED_B):
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_projections_do_not_touch_the_global_generator() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    projections(4, 5, 6, 0, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)


def test_projections_are_uniform_to_the_bounds_of_their_fan_in() -> None:
    shared = projections(64, 300, 500, 3, torch.device("cpu"))
    for name, fan_in in ((A_NAME, 500), (B_NAME, 64)):
        values, bound = shared.matrix(name).flatten(), math.sqrt(6 / fan_in)
        assert values.abs().max() <= bound
        assert stats.kstest(values, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3


@pytest.mark.parametrize("rank", [4, 64])
def test_the_update_is_as_large_at_any_rank(rank: int) -> None:
    """Var(B·diag(d)·A) = 4·d²/I, whatever the rank, so one learning rate serves all."""
    shared = projections(rank, 400, 400, 3, torch.device("cpu"))
    D = 0.1 * shared.matrix(B_NAME) @ shared.matrix(A_NAME)
    assert float(D.var()) == pytest.approx(4 * 0.1**2 / 400, rel=0.2)


@pytest.mark.parametrize("d_initial", [0.1, 1.0])
def test_vectors_start_at_d_and_zero(d_initial: float) -> None:
    state = on_two_layers(d_initial=d_initial)[1].state_dict()
    assert torch.equal(state[f"tall.{LAMBDA_D}"], torch.full((6,), d_initial))
    assert not state[f"tall.{LAMBDA_B}"].any()


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"rank": 0}, "rank is 0"),
        ({"d_initial": 0.0}, "d_initial is 0"),
        ({"d_initial": math.inf}, "d_initial is inf"),
        ({"projection_seed": 0.5}, "projection_seed is 0.5"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_what_cannot_be_is_refused_at_once(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ll.SpecError, match=said):
        ll.VeRA(**wrong)


def test_shared_projections_that_are_too_small_are_refused() -> None:
    shared = projections(6, 100, 50, 0, torch.device("cpu"))
    recipe = next(iter(on_two_layers()[1].updates.values())).delta_of(WHOLE).recipe
    ScaledProjections.blank(Spot("layer", recipe, 100, 50, torch.device("cpu"), shared=shared))
    for outputs, inputs in ((101, 50), (100, 51)):
        with pytest.raises(ll.AdapterFileError, match=f"{outputs}×{inputs}"):
            ScaledProjections.blank(Spot("layer", recipe, outputs, inputs, torch.device("cpu"), shared=shared))
