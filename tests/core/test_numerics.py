"""Numbers at the edges: rounding by precision, ten thousand switches, large activations, extreme scales, full rank."""

import pytest
import torch
from torch import Tensor, nn

import loralab as ll
from toys import TOYS, give_effect, quiet

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def dense(dtype: torch.dtype, outputs: int = 24, inputs: int = 32, **settings: object) -> tuple[nn.Module, ll.Adapter]:
    """One layer with an adapter that does something."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs, outputs)).to(dtype).eval()
    adapter = ll.attach(model, ll.LoRA(**({"rank": 4, "alpha": 8, "targets": ["0"]} | settings)))
    give_effect(adapter)
    return model, adapter


def exact(model: nn.Module, adapter: ll.Adapter) -> Tensor:
    """W + s·B·A in float64."""
    delta = adapter.updates["0"].parts["weight"]
    scale = delta.recipe.scale
    return model[0].base.weight.double() + scale * delta.lora_B.double() @ delta.lora_A.double()


def spacing(values: Tensor) -> Tensor:
    """From each number to the next larger one of its precision."""
    return torch.nextafter(values.abs(), torch.full_like(values, torch.inf)) - values.abs()


@by_dtype
def test_merging_rounds_once(dtype: torch.dtype) -> None:
    """To half a step of the base's precision, beside what float32 leaves of a sum of rank + 1 products."""
    model, adapter = dense(dtype)
    with torch.no_grad():
        wanted, W = exact(model, adapter), model[0].base.weight.double()
        wide = torch.promote_types(dtype, torch.float32)
        sums = 5 * torch.finfo(wide).eps * (W.abs() + (wanted - W).abs() + 1)
        ll.merge(model)
        merged = model[0].base.weight
        assert bool(((merged.double() - wanted).abs() <= 0.5 * spacing(merged).double() + sums).all())


@by_dtype
def test_a_hundred_rounds_of_merging_leave_no_trace(dtype: torch.dtype) -> None:
    model, _ = dense(dtype)
    before = model[0].base.weight.clone()
    merged: Tensor | None = None
    for _ in range(100):
        ll.merge(model)
        merged = model[0].base.weight.clone() if merged is None else merged
        assert torch.equal(model[0].base.weight, merged)
        ll.unmerge(model)
        assert torch.equal(model[0].base.weight, before)


@by_dtype
def test_ten_thousand_switches_leave_the_base_bit_for_bit(dtype: torch.dtype) -> None:
    toy = TOYS["linear"]
    model = toy.build().to(dtype).eval()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    for name in ("a", "b"):
        give_effect(ll.attach(model, ll.LoRA(rank=2, targets=list(toy.targets)), name=name))
    x = toy.inputs(dtype)
    outputs = {name: answer(model, x, name) for name in ("a", "b", None)}
    for turn in range(10_000):
        ll.activate(model, ("a", "b", None)[turn % 3])
    for name, output in outputs.items():
        assert torch.equal(answer(model, x, name), output)
    ll.detach(model)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


def answer(model: nn.Module, x: Tensor, name: str | None) -> Tensor:
    ll.activate(model, name)
    return quiet(model, x)


@pytest.mark.parametrize("size", [1.0, 1e3, 3e4])
def test_large_activations_in_float16(size: float) -> None:
    """Live and merged are the exact result, to float16's own precision of what is summed."""
    model, adapter = dense(torch.float16, inputs=64)
    x = (size * torch.empty(5, 64).uniform_(-1, 1)).half()
    with torch.no_grad():
        wanted = x.double() @ exact(model, adapter).T + model[0].base.bias.double()
    live = quiet(model, x).double()
    ll.merge(model)
    for found in (live, quiet(model, x).double()):
        torch.testing.assert_close(found, wanted, rtol=0, atol=8 * size * torch.finfo(torch.float16).eps)


def test_what_float16_cannot_hold_on_the_way_is_never_a_wrong_number() -> None:
    """A·x beyond float16, though B·A·x is not: infinite when live, as any layer's is; merged it is right."""
    model, adapter = dense(torch.float16, inputs=64, alpha=4)
    delta, x = adapter.updates["0"].parts["weight"], torch.full((3, 64), 1000.0, dtype=torch.float16)
    with torch.no_grad():
        delta.lora_A.fill_(8.0)
        delta.lora_B.fill_(1e-4)
        wanted = x.double() @ exact(model, adapter).T + model[0].base.bias.double()
    assert not bool(quiet(model, x).isfinite().any())
    ll.merge(model)
    torch.testing.assert_close(quiet(model, x).double(), wanted, rtol=2e-3, atol=1.0)


@pytest.mark.parametrize("alpha", [1e-30, 1e-12, 1e-3, 1e12, 1e30])
def test_alpha_of_any_size_is_what_it_says(alpha: float, tmp_path: object) -> None:
    """B of the inverse size makes the same update; it is saved, loaded and merged with that scale."""
    usual, adapter = dense(torch.float32, alpha=1.0)
    model, extreme = dense(torch.float32, alpha=alpha)
    with torch.no_grad():
        delta, like = (each.updates["0"].parts["weight"] for each in (extreme, adapter))
        delta.lora_A.copy_(like.lora_A)
        delta.lora_B.copy_(like.lora_B / alpha)
    x = torch.randn(5, 32)
    torch.testing.assert_close(quiet(model, x), quiet(usual, x), rtol=1e-4, atol=1e-4)
    ll.save(extreme, f"{tmp_path}/adapter")
    live = quiet(model, x)
    ll.merge(model)
    torch.testing.assert_close(quiet(model, x), live, rtol=1e-4, atol=1e-4)
    ll.unmerge(model)
    ll.detach(model)
    assert ll.load(model, f"{tmp_path}/adapter").updates["0"].parts["weight"].recipe.alpha == alpha
    assert torch.equal(quiet(model, x), live)


@pytest.mark.parametrize("shape", [(24, 32), (32, 24), (16, 16), (1, 8), (8, 1)])
def test_a_rank_as_wide_as_the_layer(shape: tuple[int, int], tmp_path: object) -> None:
    """It can be any update at all: here the one that makes the weights zero."""
    model, adapter = dense(torch.float64, *shape, rank=min(shape), alpha=min(shape))
    delta, W = adapter.updates["0"].parts["weight"], model[0].base.weight.detach()
    U, S, V = torch.linalg.svd(-W.double(), full_matrices=False)
    with torch.no_grad():
        delta.lora_A.copy_(V)
        delta.lora_B.copy_(U * S)
    x = torch.randn(5, shape[1], dtype=torch.float64)
    bias = model[0].base.bias.detach().expand(5, -1)
    torch.testing.assert_close(quiet(model, x), bias, rtol=0, atol=1e-5)
    ll.save(adapter, f"{tmp_path}/adapter")
    ll.merge(model)
    torch.testing.assert_close(quiet(model, x), bias, rtol=0, atol=1e-5)
