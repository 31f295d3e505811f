"""PiSSA: a start in the principal part of W, as an update of a W that stays."""

import pytest
import torch
from torch import Tensor, nn

import loralab as ll
from loralab.core.adapter import Adapter
from loralab.core.updates.update import WHOLE
from loralab.methods.pissa import principal_of, principal_part
from loralab.models.nf4 import quantize_model
from methods.low_rank_cases import base_of, close, quiet_logits
from small_models import logits
from toys import give_effect, quiet

RANK = 4
STARTS = [{}, {"init": "pissa-16"}, {"rank_stabilized": True}, {"alpha": -3.0}]


def decaying(outputs: int, inputs: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A random matrix whose singular values fall as 1, 1/2, 1/3, …"""
    count = min(outputs, inputs)
    U, _ = torch.linalg.qr(torch.randn(outputs, count, dtype=torch.float64))
    V, _ = torch.linalg.qr(torch.randn(inputs, count, dtype=torch.float64))
    return (U / torch.arange(1, count + 1) @ V.T).to(dtype)


def on_one_layer(W: Tensor, **fields: object) -> tuple[nn.Module, Adapter]:
    """(a model of one layer with these weights and PiSSA on it, the adapter)."""
    layer = nn.Linear(W.shape[1], W.shape[0], bias=False, dtype=W.dtype)
    with torch.no_grad():
        layer.weight.copy_(W)
    model = nn.ModuleDict({"layer": layer}).eval()
    return model, ll.attach(model, ll.LoRA(**{"rank": RANK, "targets": ["layer"], "init": "pissa", **fields}))


def parts(adapter: Adapter) -> tuple[Tensor, Tensor, float]:
    """(A, B, s) as they are."""
    state = adapter.state_dict()
    return state["layer.lora_A"], state["layer.lora_B"], adapter.updates["layer"].delta_of(WHOLE).recipe.scale


@pytest.mark.parametrize("fields", STARTS, ids=str)
@pytest.mark.parametrize("shape", [(20, 12), (12, 20)])
def test_it_starts_in_the_principal_part(fields: dict[str, object], shape: tuple[int, int]) -> None:
    W = decaying(*shape)
    _, adapter = on_one_layer(W, **fields)
    A, B, s = parts(adapter)
    singular = 1 / torch.arange(1, 13)
    rest = torch.linalg.svdvals(W - s * B @ A)
    close(rest[: 12 - RANK], singular[RANK:], 1e-4)
    assert rest[12 - RANK :].max() < 1e-5


@pytest.mark.parametrize("fields", STARTS, ids=str)
def test_both_factors_have_the_same_share_of_the_singular_values(fields: dict[str, object]) -> None:
    _, adapter = on_one_layer(decaying(20, 12), **fields)
    A, B, s = parts(adapter)
    share = (1 / torch.arange(1, RANK + 1) / abs(s)).sqrt()
    close(A.norm(dim=1), share, 1e-4)
    close(B.norm(dim=0), share, 1e-4)


@pytest.mark.parametrize("dtype, most", [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
@pytest.mark.parametrize("fields", STARTS, ids=str)
def test_residual_and_principal_part_are_the_weights(
    dtype: torch.dtype, most: float, fields: dict[str, object]
) -> None:
    """What the layer computes with is W − s·B₀·A₀ + s·B·A; with A and B at zero it is the residual alone."""
    W = decaying(20, 12, dtype)
    model, adapter = on_one_layer(W, **fields)
    A, B, s = (part.clone() if isinstance(part, Tensor) else part for part in parts(adapter))
    effective = quiet(model["layer"], torch.eye(12, dtype=dtype)).T
    close(effective, W, most)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.zero_()
    residual = quiet(model["layer"], torch.eye(12, dtype=dtype)).T
    close(residual + s * B.to(dtype) @ A.to(dtype), W, 1e-6)  # s·B is rounded to float32, which both kept parts share
    assert torch.linalg.svdvals(residual)[0] < 1.01 / (RANK + 1)


def test_more_iterations_come_closer_to_the_whole_decomposition() -> None:
    W = torch.randn(60, 60)
    best, errors = W - torch.matmul(*principal_part(W, RANK)), []
    for iterations in (0, 1, 8):
        torch.manual_seed(3)
        B, A = principal_part(W, RANK, iterations)
        errors.append(float((W - B @ A).norm() / best.norm()))
    assert errors[0] > errors[1] > errors[2] >= 1 - 1e-6
    assert errors[2] < 1.001  # 1.004 without the directions beyond the rank


def test_iterations_draw_from_the_seed() -> None:
    W = torch.randn(60, 60)
    torch.manual_seed(3)
    first = on_one_layer(W, init="pissa-1")[1].state_dict()
    torch.manual_seed(3)
    again = on_one_layer(W, init="pissa-1")[1].state_dict()
    other = on_one_layer(W, init="pissa-1")[1].state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("fields", STARTS, ids=str)
def test_its_plain_lora_of_twice_the_rank_is_the_merged_weight(fields: dict[str, object]) -> None:
    W = decaying(20, 12)
    model, adapter = on_one_layer(W, **fields)
    give_effect(adapter)
    plain = adapter.updates["layer"].delta_of(WHOLE).as_lora()
    assert plain.recipe.rank == 2 * RANK
    assert plain.recipe.alpha == pytest.approx(
        adapter.spec.alpha * (2**0.5 if adapter.spec.rank_stabilized else 2)  # α' of the doubled rank, so that s stays
    )
    ll.merge(model)
    close(W + plain.recipe.scale * plain.lora_B @ plain.lora_A, model["layer"].weight, 1e-6)


def test_other_adapters_stand_beside_it_on_the_same_base() -> None:
    W = decaying(20, 12)
    model, adapter = on_one_layer(W)
    give_effect(adapter)
    x = torch.randn(5, 12)
    live = quiet(model["layer"], x)
    ll.attach(model, ll.LoRA(rank=RANK, targets=["layer"]), name="other")
    assert torch.equal(quiet(model["layer"], x), x @ W.T)
    ll.activate(model, "default")
    assert torch.equal(quiet(model["layer"], x), live)


def test_parts_of_a_fused_projection_have_their_own_principal_parts() -> None:
    model = nn.ModuleDict({"qkv": nn.Linear(12, 36)})
    adapter = ll.attach(model, ll.LoRA(rank=RANK, targets="qkv[q,v]", init="pissa", alpha=RANK))
    W = adapter.layers["qkv"].base.weight.detach()
    for part, rows in (("q", W[:12]), ("v", W[24:])):
        A, B = (adapter.state_dict()[f"qkv.{part}.lora_{factor}"] for factor in "AB")
        expected_B, expected_A = principal_part(rows, RANK)
        close(B @ A, expected_B @ expected_A, 1e-5)


# -- a base in four bits -----------------------------------------------------------------------------------------------

TARGETS = ("q_proj", "v_proj")


def quantised(spec: ll.LoRA | None, rounds: int = 1) -> tuple[nn.Module, dict[str, Tensor]]:
    """(a Llama in NF4, with the principal parts that this specification asks for; the targets' weights before)."""
    model = base_of("llama")
    torch.manual_seed(3)
    weights = {}
    for path, layer in model.named_modules():
        if path.endswith(TARGETS):
            with torch.no_grad():
                layer.weight.copy_(2 * decaying(*layer.weight.shape))
            weights[path] = layer.weight.detach().clone()
    quantize_model(model, principal=None if spec is None else principal_of(model, spec, rounds))
    return model, weights


def lost(model: nn.Module, weights: dict[str, Tensor]) -> float:
    """Σ over the targets of the nuclear norm of what quantising took from their weights."""
    errors = [weight - model.get_submodule(path).weight for path, weight in weights.items()]
    return sum(float(torch.linalg.matrix_norm(error, "nuc")) for error in errors)


def test_four_bits_lose_less_of_the_residual_than_of_the_weight() -> None:
    """Why QPiSSA quantises the residual (paper §4); five rounds lose less than one."""
    spec = ll.LoRA(rank=RANK, init="pissa", targets=TARGETS)
    whole, residual, five = (lost(*quantised(*how)) for how in ((None,), (spec,), (spec, 5)))
    assert residual < 0.9 * whole
    assert five < residual


def test_on_a_quantised_residual_it_starts_in_the_part_that_was_kept() -> None:
    spec = ll.LoRA(rank=RANK, init="pissa", targets=TARGETS)
    model, _ = quantised(spec)
    before = quiet_logits(model)
    adapter = ll.attach(model, spec)
    close(quiet_logits(model), before, 1e-5)
    for path, layer in adapter.layers.items():
        A, B = (adapter.state_dict()[f"{path}.lora_{factor}"] for factor in "AB")
        kept_B, kept_A = layer.base.principal
        close(adapter.updates[path].delta_of(WHOLE).recipe.scale * B @ A, kept_B @ kept_A, 1e-5)
    logits(model).square().sum().backward()
    assert all(parameter.grad.any() for parameter in adapter.parameters())
    give_effect(adapter)
    assert not torch.equal(quiet_logits(model), before)
    with ll.disabled(model):
        assert torch.equal(quiet_logits(model), before)
    ll.detach(model)
    assert torch.equal(quiet_logits(model), before)


@pytest.mark.parametrize("kept", [None, 2 * RANK])
def test_a_base_that_kept_no_such_part_is_refused(kept: int | None) -> None:
    model, _ = quantised(None if kept is None else ll.LoRA(rank=kept, init="pissa", targets=TARGETS))
    before = quiet_logits(model)
    with pytest.raises(ll.TargetError, match=rf"PiSSA of rank {RANK}.*q_proj.*quantise"):
        ll.attach(model, ll.LoRA(rank=RANK, init="pissa", targets=TARGETS))
    assert torch.equal(quiet_logits(model), before)


# -- what cannot be ----------------------------------------------------------------------------------------------------


def test_weights_that_have_no_principal_part_are_refused() -> None:
    with pytest.raises(ll.NumericsError, match=r"layer holds NaN"):
        on_one_layer(torch.full((8, 8), torch.nan))


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"init": "pissa", "freeze_a": True}, "freeze_a"),
        ({"init": "pissa", "alpha": 0}, "alpha is 0"),
        ({"init": "pissa-"}, "pissa-"),
        ({"init": "pissa-x"}, "pissa-x"),
    ],
)
def test_what_cannot_be_is_refused_at_once(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ll.SpecError, match=said):
        ll.LoRA(**wrong)


def test_a_rank_above_the_width_is_refused() -> None:
    with pytest.raises(ll.SpecError, match="rank 13"):
        on_one_layer(torch.randn(12, 20), rank=13)
