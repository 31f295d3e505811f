"""DoRA: lengths apart from directions, with the norm that carries no gradient and is computed without forming V."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import loralab as ll
from loralab.core.adapter import Adapter
from loralab.core.math import row_norms, scaled_linear
from loralab.core.names import unwrapped
from loralab.core.updates.magnitude import MAGNITUDE, MagnitudeLinear
from loralab.core.updates.update import WHOLE
from loralab.nn.dropout import dropout
from methods.low_rank_cases import adapted, close
from toys import TOYS, give_effect, quiet

OUTPUTS, INPUTS, RANK = 12, 16, 3
KINDS = ["linear", "conv1d of transformers", "fused thirds", "fused thirds, stored transposed", "embedding", "conv2d"]


def on_one_layer(layer: nn.Module | None = None, **fields: object) -> tuple[nn.Module, Adapter]:
    """(a model of one layer with DoRA on it, the adapter)."""
    model = nn.ModuleDict({"layer": layer or nn.Linear(INPUTS, OUTPUTS)}).eval()
    return model, ll.attach(model, ll.LoRA(**{"rank": RANK, "magnitude": True, "targets": ["layer"], **fields}))


def tensors(adapter: Adapter) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(W, A, s·B, m) of the one layer."""
    update = adapter.updates["layer"]
    A, B = (factor.detach() for factor in update.delta_of(WHOLE).settled())
    return adapter.layers["layer"].base.weight.detach(), A, B, update.added.get_parameter(MAGNITUDE).detach()


# -- lengths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["kaiming", "pissa"])
def test_lengths_start_as_those_of_the_weights(init: str) -> None:
    _, adapter = on_one_layer(init=init)
    W, _, _, m = tensors(adapter)
    close(m, W.norm(dim=1), 1e-6)


@pytest.mark.parametrize(
    "kind, init",
    [(kind, "kaiming") for kind in KINDS] + [(kind, "pissa") for kind in KINDS if kind not in ("embedding", "conv2d")],
)
def test_merged_weights_have_the_trained_lengths(kind: str, init: str) -> None:
    toy = TOYS[kind]
    model = toy.build().eval()
    adapter = ll.attach(model, ll.LoRA(rank=RANK, magnitude=True, targets=toy.targets, init=init))
    give_effect(adapter, std=0.3)
    (update,) = adapter.updates.values()
    m = update.added.get_parameter(MAGNITUDE).detach().flatten()
    ll.merge(model)
    W = model.inner.weight.detach()
    rows = W.T if kind.endswith("transposed") or kind in ("conv1d of transformers", "embedding") else W.flatten(1)
    chosen = torch.cat([update.rows_of(part) for part in update.parts]) if "fused" in kind else slice(None)
    close(rows.norm(dim=1)[chosen], m.abs(), 1e-5)


def test_lengths_are_kept_in_float32_and_start_exact_on_a_half_precision_base() -> None:
    _, adapter = on_one_layer(nn.Linear(INPUTS, OUTPUTS).bfloat16())
    W, _, _, m = tensors(adapter)
    assert m.dtype == torch.float32
    close(m, W.float().norm(dim=1), 1e-6)
    assert not torch.equal(m, W.norm(dim=1).float())


def test_lengths_of_an_embedding_and_a_convolution_have_pefts_shapes() -> None:
    assert on_one_layer(nn.Embedding(20, 8))[1].state_dict()[f"layer.{MAGNITUDE}"].shape == (8,)
    assert on_one_layer(nn.Conv2d(4, 8, 3))[1].state_dict()[f"layer.{MAGNITUDE}"].shape == (1, 8, 1, 1)
    assert on_one_layer(nn.Conv1d(4, 8, 3))[1].state_dict()[f"layer.{MAGNITUDE}"].shape == (1, 8, 1)


def test_rows_that_are_not_adapted_keep_their_weights() -> None:
    toy = TOYS["fused thirds"]
    model = toy.build().eval()
    adapter = ll.attach(model, ll.LoRA(rank=RANK, magnitude=True, targets=toy.targets))
    give_effect(adapter)
    before = model.inner.base.weight.detach().clone()
    ll.merge(model)
    changed = (model.inner.weight != before).any(dim=1)
    assert changed.view(3, 16).all(dim=1).tolist() == [True, False, True]


# -- the norm ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True])
def test_the_cheap_norm_is_the_direct_one(known: bool) -> None:
    W, A, B = (torch.randn(*shape, dtype=torch.float64) for shape in ((9, 7), (3, 7), (9, 3)))
    squares = W.square().sum(1) if known else None
    torch.testing.assert_close(row_norms(W, A, B, squares), (W + B @ A).norm(dim=1))


def test_the_norm_of_half_precision_weights_is_not_rounded() -> None:
    W, A, B = torch.randn(9, 64).bfloat16(), torch.randn(3, 64), torch.randn(9, 3)
    close(row_norms(W, A, B), (W.double() + B.double() @ A.double()).norm(dim=1).float(), 1e-6)


def test_an_output_without_weights_stays_silent() -> None:
    layer = nn.Linear(INPUTS, OUTPUTS, bias=False)
    with torch.no_grad():
        layer.weight[4] = 0
    model, adapter = on_one_layer(layer)
    x = torch.randn(5, INPUTS)
    assert torch.equal(model["layer"](x), layer(x))
    model["layer"](x).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in adapter.parameters())
    ll.merge(model)
    assert not layer.weight[4].any()
    ll.unmerge(model)


# -- gradients ---------------------------------------------------------------------------------------------------------


def dense(x: Tensor, W: Tensor, bias: Tensor, A: Tensor, B: Tensor, m: Tensor, through_norm: bool) -> Tensor:
    """x·(m ⊙ V/‖V‖)ᵀ + bias with V formed: the definition (eq. 5, and §4.3 where the norm is a constant)."""
    V = W + B @ A
    norm = V.norm(dim=1) if through_norm else V.norm(dim=1).detach()
    return x @ ((m / norm)[:, None] * V).T + bias


@pytest.mark.parametrize("through_norm", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_outputs_and_gradients_are_those_of_the_definition(through_norm: bool, fused: bool) -> None:
    """Also by the path that a hook on the base forces, which adds to the base's own output."""
    _, adapter = on_one_layer(through_norm=through_norm, alpha=5.0)
    give_effect(adapter, std=0.3)
    W, A, B, m = tensors(adapter)
    layer, s = adapter.layers["layer"], 5.0 / RANK
    if not fused:
        layer.base.register_forward_hook(lambda module, args, output: None)
    x, direction = torch.randn(7, INPUTS, requires_grad=True), torch.randn(7, OUTPUTS)
    ours = layer(x)
    (ours * direction).sum().backward()
    A, raw_B, m, x_too = (tensor.detach().clone().requires_grad_() for tensor in (A, B / s, m, x))
    theirs = dense(x_too, W, layer.base.bias.detach(), A, s * raw_B, m, through_norm)
    (theirs * direction).sum().backward()
    close(ours, theirs, 1e-5)
    named = {name.rpartition(".")[2]: parameter.grad for name, parameter in adapter.named_parameters()}
    for actual, expected in ((x, x_too), (named["lora_A"], A), (named["lora_B"], raw_B), (named[MAGNITUDE], m)):
        close(actual.grad if isinstance(actual.grad, Tensor) else actual, expected.grad, 1e-5)


def test_with_the_norm_a_constant_the_gradient_of_b_is_loras_of_what_c_scales() -> None:
    model, adapter = on_one_layer()
    give_effect(adapter, std=0.3)
    W, A, B, m = tensors(adapter)
    layer = adapter.layers["layer"].base
    x, direction = torch.randn(7, INPUTS), torch.randn(7, OUTPUTS)
    (model["layer"](x) * direction).sum().backward()
    c = m / (W + B @ A).norm(dim=1)
    lora = nn.ModuleDict({"layer": layer})
    plain = ll.attach(lora, ll.LoRA(rank=RANK, targets=["layer"]))
    plain.load_state_dict({key: value for key, value in adapter.state_dict().items() if MAGNITUDE not in key})
    (lora["layer"](x) * direction * c).sum().backward()
    expected = {name: parameter.grad for name, parameter in plain.named_parameters()}
    for name, parameter in adapter.named_parameters():
        if name in expected:
            close(parameter.grad, expected[name], 1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_the_one_node_has_the_gradients_of_finite_differences(bias: bool) -> None:
    shapes = {"x": (2, 3, 5), "A": (2, 5), "B": (4, 2), "c": (4,)}
    leaves = {name: torch.randn(*shape, dtype=torch.float64, requires_grad=True) for name, shape in shapes.items()}
    W = torch.randn(4, 5, dtype=torch.float64)
    b = torch.randn(4, dtype=torch.float64, requires_grad=True) if bias else None
    inputs = (leaves["x"], W, b, leaves["A"], leaves["B"], leaves["c"])
    assert torch.autograd.gradcheck(scaled_linear, inputs)


@pytest.mark.parametrize("hooked", [False, True])
def test_a_bias_that_trains_too_is_not_scaled(hooked: bool) -> None:
    model, adapter = on_one_layer(bias="lora_only")
    give_effect(adapter, std=0.3)
    W, A, B, m = tensors(adapter)
    bias = adapter.state_dict()["layer.bias"]
    if hooked:
        adapter.layers["layer"].base.register_forward_hook(lambda module, args, output: None)
    x, direction = torch.randn(7, INPUTS), torch.randn(7, OUTPUTS)
    live = model["layer"](x)
    (live * direction).sum().backward()
    close(live, dense(x, W, bias, A, B, m, through_norm=False), 1e-5)
    close(dict(adapter.named_parameters())["layer.bias"].grad, direction.sum(0), 1e-5)
    ll.merge(model)
    close(model["layer"](x), live, 1e-5)


# -- dropout -----------------------------------------------------------------------------------------------------------


def test_dropout_is_on_what_is_added_to_the_base_and_not_on_the_base() -> None:
    """h = W·x + b + (c − 1) ⊙ W·x̃ + c ⊙ s·B·A·x̃ with x̃ what dropout left of x, here each entry 0 or 2."""
    model, adapter = on_one_layer(dropout=0.5)
    give_effect(adapter, std=0.3)
    W, A, B, m = tensors(adapter)
    layer, x = adapter.layers["layer"].base, torch.ones(1, INPUTS)
    c = m / (W + B @ A).norm(dim=1)
    model.train()
    torch.manual_seed(7)
    live = quiet(model["layer"], x)
    torch.manual_seed(7)
    left = dropout(x, 0.5)
    assert set(left.unique().tolist()) == {0.0, 2.0}
    close(live, layer(x) + (c - 1) * (left @ W.T) + c * (left @ A.T @ B.T), 1e-5)


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer, fields, said",
    [
        (nn.Conv2d(4, 8, 3, groups=2), {}, "2 groups"),
        (nn.Conv2d(4, 8, 3), {"dropout": 0.1}, "dropout"),
        (nn.MultiheadAttention(8, 2), {}, "MultiheadAttention"),
    ],
)
def test_what_has_no_lengths_of_its_own_is_refused(layer: nn.Module, fields: dict[str, float], said: str) -> None:
    model = nn.ModuleDict({"layer": layer})
    with pytest.raises(ll.LoralabError, match=said):
        ll.attach(model, ll.LoRA(rank=2, magnitude=True, targets=["layer"], **fields))
    assert model["layer"] is layer


def test_through_norm_is_of_dora_alone() -> None:
    with pytest.raises(ll.SpecError, match="through_norm"):
        ll.LoRA(through_norm=True)


# -- the base under it -------------------------------------------------------------------------------------------------


def test_on_a_quantised_base_the_lengths_are_those_of_the_dequantised_weight() -> None:
    from loralab.models.nf4 import QuantizedLinear

    quantised = QuantizedLinear.of(nn.Linear(64, OUTPUTS))
    model, adapter = on_one_layer(quantised)
    W, _, _, m = tensors(adapter)
    close(m, W.norm(dim=1), 1e-6)
    x = torch.randn(5, 64)
    assert torch.equal(quiet(model["layer"], x), quiet(quantised, x))
    give_effect(adapter, std=0.3)
    W, A, B, m = tensors(adapter)
    expected = dense(x, W, quantised.bias, A, B, m, through_norm=False)
    close(quiet(model["layer"], x), expected, 1e-5)


def test_after_another_adapter_was_merged_for_good_lengths_are_measured_on_the_new_weights() -> None:
    model, adapter = on_one_layer()
    give_effect(adapter, std=0.3)
    x = torch.randn(5, INPUTS)
    quiet(model["layer"], x)
    give_effect(ll.attach(model, ll.LoRA(rank=RANK, targets=["layer"]), name="other"), std=0.3)
    ll.merge(model, "other")
    ll.detach(model, "other", keep_merged=True)
    ll.activate(model, "default")
    W, A, B, m = tensors(adapter)
    close(quiet(model["layer"], x), dense(x, W, model["layer"].bias.detach(), A, B, m, through_norm=False), 1e-5)


def test_after_the_base_is_loaded_anew_lengths_are_measured_on_the_new_weights() -> None:
    model, adapter = on_one_layer()
    give_effect(adapter, std=0.3)
    quiet(model["layer"], torch.randn(2, INPUTS))
    base = adapter.layers["layer"].base
    base.load_state_dict(nn.Linear(INPUTS, OUTPUTS).state_dict())
    ll.merge(model)
    close(base.weight.detach().norm(dim=1), tensors(adapter)[3].abs(), 1e-5)


def test_a_whole_model_trains_from_the_base_on() -> None:
    """Ten steps of AdamW on one batch, which only works if the gradients of A, B and m point down."""
    model, adapter = adapted("llama", "dora")
    ids = torch.arange(3, 23).view(2, 10)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.02)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        losses.append(model(input_ids=ids, labels=ids).loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.95 * losses[0]


def test_what_is_kept_for_decoding_is_never_stale() -> None:
    _, adapter = adapted("llama", "dora")
    give_effect(adapter)
    update = adapter.updates[adapter.matched[0]]
    assert isinstance(update, MagnitudeLinear)
    base = unwrapped(adapter.layers[adapter.matched[0]])
    with torch.no_grad():
        first = update.stretch(base, update.factors())
        assert update.stretch(base, update.factors()) is first
        for _, tensor in update.named_tensors():
            before = update.stretch(base, update.factors())
            tensor.mul_(1.5)
            assert not torch.equal(update.stretch(base, update.factors()), before)
        A, B = update.matrices(WHOLE)
        update.set_matrices(WHOLE, A * 3, B)
        stretched = update.stretch(base, update.factors())
        torch.testing.assert_close(stretched, update.magnitude / (base.weight + B @ A * 3).norm(dim=1))
        base.weight.mul_(2.0)
        doubled = update.stretch(base, update.factors())
    with torch.inference_mode():
        torch.testing.assert_close(update.stretch(base, update.factors()), doubled)
    assert update.stretch(base, update.factors()).requires_grad


def test_a_step_that_torch_does_not_count_is_seen_by_the_evaluation_after_it() -> None:
    """Optimizers of other packages write through `p.data` or in kernels of their own: no tensor's version changes."""
    model, adapter = on_one_layer()
    give_effect(adapter)
    x = torch.randn(4, INPUTS)
    with torch.no_grad():
        before = model["layer"](x)
    model["layer"](x).square().sum().backward()
    for parameter in adapter.parameters():
        parameter.data.mul_(1.5)
    with torch.no_grad():
        after = model["layer"](x)
    torch.testing.assert_close(after, model["layer"](x).detach())
    assert not torch.allclose(after, before)


@pytest.mark.parametrize(
    "make, target, x",
    [
        (lambda: nn.Linear(8, 6), "0", torch.randn(4, 8, dtype=torch.float64)),
        (lambda: nn.Embedding(9, 6), "0", torch.arange(9)),
        (lambda: nn.Conv1d(3, 6, 2), "0", torch.randn(2, 3, 8, dtype=torch.float64)),
    ],
)
def test_lengths_of_a_float64_base_stay_float64_when_they_are_loaded(
    make: Callable[[], nn.Module], target: str, x: Tensor, tmp_path: Path
) -> None:
    model = nn.Sequential(make()).double().eval()
    adapter = ll.attach(model, ll.LoRA(rank=2, targets=[target], magnitude=True))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    live = model(x)
    ll.save(adapter, tmp_path / "adapter")
    ll.detach(model)
    ll.load(model, tmp_path / "adapter")
    assert (model(x) - live).abs().max() < 1e-14


def test_lengths_are_measured_anew_after_a_step_that_torch_does_not_count() -> None:
    model, adapter = on_one_layer()
    give_effect(adapter)
    x = torch.randn(4, INPUTS)
    with torch.no_grad():
        before = model["layer"](x)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1, fused=True)
    model["layer"](x).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        after = model["layer"](x)
    close(after, model["layer"](x).detach(), 1e-6)
    assert not torch.allclose(before, after)
