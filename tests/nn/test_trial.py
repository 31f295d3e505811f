"""Modules that are more, or other, than what their class and attributes say."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import loralab as ll
from toys import give_effect


class Rectified(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))


class Router(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y = super().forward(x)
        return y.softmax(-1), y


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        W = self.weight / self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, W, self.bias)


class StandardisedInside(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight - weight.mean((1, 2, 3), keepdim=True), bias)


class Positions(nn.Embedding):
    def forward(self, mask: Tensor) -> Tensor:
        return super().forward(mask.cumsum(-1))


class Transposed(nn.Module):
    """Has the attributes of nn.Linear and stores its weight [in, out]."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.randn(in_features, out_features))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Foreign(Transposed):
    """Has the attributes of nn.Linear and computes the same."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(out_features, in_features)
        self.in_features, self.out_features, self.bias = in_features, out_features, None

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


class Wrapper(nn.Module):
    """Passes the weight of what it wraps on as its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(10, 6)
        self.in_features, self.out_features = 10, 6

    @property
    def weight(self) -> Tensor:
        return self.inner.weight

    @property
    def bias(self) -> Tensor:
        return self.inner.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def hooked() -> nn.Module:
    layer = nn.Linear(10, 6)
    layer.register_forward_hook(lambda module, args, output: output * 2)
    return layer


def patched() -> nn.Module:
    layer = nn.Linear(10, 6)
    plain = layer.forward
    layer.forward = lambda x: torch.tanh(plain(x))  # type: ignore[method-assign]
    return layer


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Linear(10, 6))


NOT_MERGEABLE: dict[str, Callable[[], nn.Module]] = {
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(10, 6)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(10, 6)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(10, 6)),
    "old weight_norm": old_weight_norm,
    "old spectral_norm": lambda: nn.utils.spectral_norm(nn.Linear(10, 6)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(10, 6), "weight", amount=0.3),
    "wrapper": Wrapper,
    "activation": lambda: Rectified(10, 6),
    "hook": hooked,
    "patched": patched,
}


def adapted(module: nn.Module, target: str = "0", **fields: object) -> tuple[nn.Module, ll.Adapter]:
    model = nn.Sequential(module).eval()
    adapter = ll.attach(model, ll.LoRA(rank=2, targets=[target], **fields))  # type: ignore[arg-type]
    give_effect(adapter)
    return model, adapter


OLD_HOOKS = ("old weight_norm", "old spectral_norm", "pruned")
"""Their weight is an attribute that the next forward pass renews."""


@pytest.mark.parametrize("kind", OLD_HOOKS)
def test_a_method_that_starts_from_the_weight_is_refused_where_that_may_be_an_old_one(kind: str) -> None:
    with pytest.raises(ll.TargetError, match="gets its weight anew before each forward pass"):
        adapted(NOT_MERGEABLE[kind](), magnitude=True)


@pytest.mark.parametrize(
    "kind, magnitude",
    [
        (kind, magnitude)
        for kind in NOT_MERGEABLE
        for magnitude in (False, True)
        if not (magnitude and kind in OLD_HOOKS)
    ],
)
def test_a_module_that_would_compute_something_else_when_merged_is_refused_and_left_as_it_was(
    kind: str, magnitude: bool
) -> None:
    x = torch.randn(4, 10)
    model, _ = adapted(NOT_MERGEABLE[kind](), magnitude=magnitude)
    live, names = model(x), set(model.state_dict())
    with pytest.raises(ll.AdapterStateError, match=r"merge.* 0(\.weight)? \(|merged.*: 0\.weight \("):
        ll.merge(model)
    assert torch.equal(model(x), live)
    assert set(model.state_dict()) == names


def test_a_layer_under_a_hook_that_only_looks_can_be_merged() -> None:
    layer = nn.Linear(10, 6)
    layer.register_forward_hook(lambda module, args, output: None)
    model, _ = adapted(layer)
    x = torch.randn(4, 10)
    live = model(x)
    ll.merge(model)
    torch.testing.assert_close(model(x), live)


@pytest.mark.parametrize("make", [lambda: Transposed(8, 8), lambda: Transposed(8, 6), lambda: Router(8, 6)])
def test_a_foreign_weight_is_a_raw_parameter_here_and_in_peft(make: Callable[[], nn.Module], tmp_path: object) -> None:
    with pytest.raises(ll.TargetError, match=r"'0' names .*cannot be a target.*0\.weight"):
        adapted(make())
    model, adapter = adapted(make(), "0.weight")
    x = torch.randn(4, 8)
    base, live = _first(model[0].base(x)), _first(model(x))
    assert (live - base).abs().max() > 0.1
    ll.save(adapter, f"{tmp_path}/adapter")
    ll.merge(model)
    torch.testing.assert_close(_first(model(x)), live)
    ll.unmerge(model)
    ll.detach(model)
    torch.testing.assert_close(_first(PeftModel.from_pretrained(model, f"{tmp_path}/adapter")(x)), live)


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("dimensions", [(8, 8), (8, 6)])
def test_a_foreign_dense_layer_is_the_same_live_merged_reloaded_and_in_peft(
    dimensions: tuple[int, int], tmp_path: Path
) -> None:
    model, adapter = adapted(Foreign(*dimensions))
    x = torch.randn(4, 8)
    live = model(x)
    ll.save(adapter, tmp_path / "adapter")
    ll.merge(model)
    torch.testing.assert_close(model(x), live)
    ll.unmerge(model)
    ll.detach(model)
    ll.load(model, tmp_path / "adapter")
    torch.testing.assert_close(model(x), live)
    ll.detach(model)
    torch.testing.assert_close(PeftModel.from_pretrained(model, str(tmp_path / "adapter"))(x), live)


@pytest.mark.parametrize("module", [Standardised(3, 6, 3), StandardisedInside(3, 6, 3), Positions(9, 4)])
def test_a_convolution_or_lookup_that_is_another_function_is_no_target(module: nn.Module) -> None:
    with pytest.raises(ll.TargetError, match="its forward is not the product, lookup or convolution of its class"):
        adapted(module)


def test_positions_are_adapted_as_a_raw_parameter() -> None:
    model, _ = adapted(Positions(9, 4), "0.weight")
    mask = torch.ones(2, 5, dtype=torch.long)
    live = model(mask)
    assert (live - model[0].base(mask)).abs().max() > 0.01
    ll.merge(model)
    torch.testing.assert_close(model(mask), live)


def test_all_linear_leaves_out_what_returns_no_product() -> None:
    model = nn.Sequential(nn.Linear(8, 8), Router(8, 6))
    adapter = ll.attach(model, ll.LoRA(targets="all-linear", rank=2))
    assert adapter.matched == ["0"]
