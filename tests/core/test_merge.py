"""Merging is one transaction, and unmerging is exact."""

import pytest
import torch
from torch import nn

import loralab as ll
from toys import give_effect, quiet


def merged_mlp() -> tuple[nn.Module, torch.Tensor]:
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(2, 6)
    give_effect(ll.attach(model, ll.LoRA(rank=2, targets=["0", "2"]), name="a"))
    return model, x


def test_the_report_tells_each_tensor_and_its_change() -> None:
    model, _ = merged_mlp()
    delta = ll.adapters_of(model).adapter("a").updates["0"].deltas(model[0].base)["weight"]
    report = ll.merge(model)
    assert (report.adapter, list(report.changes)) == ("a", ["0.weight", "2.weight"])
    assert report.changes["0.weight"] == pytest.approx(float(delta.detach().norm()), rel=1e-5)


def test_what_is_refused_while_merged() -> None:
    model, x = merged_mlp()
    ll.merge(model)
    for refused in (
        lambda: ll.merge(model),
        lambda: ll.attach(model, ll.LoRA(rank=1, targets="0"), name="b"),
        lambda: ll.activate(model, None),
        lambda: ll.detach(model),
        lambda: model.train()(x),
    ):
        with pytest.raises(ll.AdapterStateError, match=r"'a'.*merged|merged.*'a'|'a' is merged"):
            refused()
    ll.unmerge(model)
    with pytest.raises(ll.AdapterStateError, match="nothing is merged"):
        ll.unmerge(model)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_poisoned_delta_is_refused_by_name_and_nothing_changes(poison: float) -> None:
    model, _ = merged_mlp()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        ll.adapters_of(model).adapter("a").updates["2"].parts["weight"].lora_B[0, 0] = poison
    with pytest.raises(ll.NumericsError, match=r"2\.weight"):
        ll.merge(model)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if "lora" not in name)
    assert quiet(model, torch.randn(2, 6)).shape == (2, 3)


def test_unmerge_puts_the_very_same_tensors_back() -> None:
    model, x = merged_mlp()
    W, live = model[0].base.weight, quiet(model, x)
    ll.merge(model)
    assert model[0].base.weight is not W
    ll.unmerge(model)
    assert model[0].base.weight is W
    assert torch.equal(quiet(model, x), live)


def test_neither_train_nor_eval_touches_a_weight() -> None:
    model, _ = merged_mlp()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.eval().train().eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_merge_can_be_made_final() -> None:
    model, x = merged_mlp()
    live = quiet(model, x)
    ll.merge(model)
    ll.detach(model, keep_merged=True)
    assert type(model[0]) is nn.Linear
    torch.testing.assert_close(quiet(model, x), live)


def test_merging_one_of_a_tied_pair_leaves_the_other() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(8, 6), "head": nn.Linear(6, 8, bias=False)})
    model["head"].weight = model["embed"].weight
    adapter = ll.attach(model, ll.LoRA(rank=2, targets="embed"))
    assert any("head" in note for note in adapter.notes)
    give_effect(adapter)
    tied = model["head"].weight.clone()
    ll.merge(model)
    assert torch.equal(model["head"].weight, tied)
    ll.unmerge(model)
    assert model["head"].weight is model["embed"].base.weight


def test_merging_without_an_active_adapter_is_an_error() -> None:
    model, _ = merged_mlp()
    ll.activate(model, None)
    with pytest.raises(ll.AdapterStateError, match="no adapter is active"):
        ll.merge(model)
    assert ll.merge(model, "a").adapter == "a"


def test_only_stacked_experts_are_stored_transposed() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.is_transposed = True
            self.up, self.bias = nn.Parameter(torch.randn(3, 4, 6)), nn.Parameter(torch.randn(3, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.einsum("bi,eio->beo", x, self.up) + self.bias

    model, x = nn.ModuleDict({"experts": Experts()}), torch.randn(2, 4)
    model.forward = lambda x: model["experts"](x)  # type: ignore[method-assign]
    give_effect(ll.attach(model, ll.LoRA(rank=2, targets=["experts.up", "experts.bias"])))
    live = quiet(model, x)
    ll.merge(model)
    torch.testing.assert_close(quiet(model, x), live)
