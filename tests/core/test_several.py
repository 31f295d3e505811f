"""Several adapters active at once are the exact sum of their updates: live, merged, per row, in training."""

import copy

import pytest
import torch
from torch import Tensor, nn

import loralab as ll
from loralab.core.names import base_modules
from small_models import llama
from toys import TOYS, give_effect, quiet

every_kind = pytest.mark.parametrize("kind", TOYS)
CLOSE = {"atol": 1e-9, "rtol": 1e-7}


def with_two(kind: str, **second: object) -> tuple[nn.Module, Tensor]:
    """A toy in float64 with the adapters a (rank 2) and b (rank 1), and an input."""
    toy = TOYS[kind]
    model = toy.build().double().eval()
    give_effect(ll.attach(model, ll.LoRA(rank=2, alpha=3, targets=toy.targets), name="a"))
    give_effect(ll.attach(model, ll.LoRA(rank=1, alpha=5, targets=toy.targets, **second), name="b"))
    return model, toy.inputs(torch.float64)


def exact_sum(model: nn.Module, x: Tensor) -> Tensor:
    """What the model computes with ΔW_a and ΔW_b added to its weights by hand, where no adapter speaks."""
    by_hand = copy.deepcopy(model)
    adapters = ll.adapters_of(by_hand)
    ll.activate(by_hand, None)
    with torch.no_grad():
        for name in ("a", "b"):
            for path, update in adapters.adapter(name).updates.items():
                base = adapters.layers[path].base
                for tensor, D in update.deltas(base).items():
                    base.get_parameter(tensor).add_(D)
    return quiet(by_hand, x)


@every_kind
def test_it_is_the_exact_sum_live_and_merged(kind: str) -> None:
    model, x = with_two(kind)
    alone, expected = quiet(model, x), exact_sum(model, x)
    ll.activate(model, ["a", "b"])
    live = quiet(model, x)
    torch.testing.assert_close(live, expected, **CLOSE)
    assert (live - alone).abs().max() > 1e-3
    report = ll.merge(model)
    assert report.adapter == "a + b"
    torch.testing.assert_close(quiet(model, x), expected, **CLOSE)
    ll.unmerge(model)
    assert torch.equal(quiet(model, x), live)
    with ll.disabled(model):
        base = quiet(model, x)
    ll.detach(model)
    assert torch.equal(quiet(model, x), base)


@every_kind
def test_a_row_may_be_under_several(kind: str) -> None:
    model, x = with_two(kind)
    outputs = {}
    for speaker in (None, "a", ("b", "a")):
        ll.activate(model, speaker)
        outputs[speaker] = quiet(model, x)
    with ll.rows(model, ["a", ["b", "a"], None, ("b", "a")]):
        mixed = quiet(model, x)
    expected = [outputs[speaker][row] for row, speaker in enumerate(["a", ("b", "a"), None, ("b", "a")])]
    torch.testing.assert_close(mixed, torch.stack(expected), **CLOSE)


@every_kind
def test_both_train(kind: str) -> None:
    """Each adapter's gradient is the one it gets alone on a base into which the other is merged."""
    model, x = with_two(kind)
    ll.activate(model, ["a", "b"])
    model(x).square().sum().backward()
    for name, other in (("a", "b"), ("b", "a")):
        alone = copy.deepcopy(model)
        alone.zero_grad(set_to_none=True)
        ll.merge(alone, other)
        weights = {key: value.clone() for key, value in alone.state_dict().items()}
        ll.unmerge(alone)
        alone.load_state_dict(weights)
        ll.activate(alone, name)
        alone(x).square().sum().backward()
        together = dict(ll.adapters_of(model).adapter(name).named_parameters())
        for key, parameter in ll.adapters_of(alone).adapter(name).named_parameters():
            assert parameter.grad.any()
            torch.testing.assert_close(together[key].grad, parameter.grad, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "fused thirds", "conv2d", "conv1d of transformers"])
def test_each_drops_its_own_inputs(kind: str) -> None:
    model, x = with_two(kind, dropout=0.5)
    adapters = ll.adapters_of(model)
    ll.activate(model, ["a", "b"])
    expected = quiet(model, x)
    model.train()
    assert not torch.allclose(quiet(model, x), expected)
    with torch.no_grad():
        for name, parameter in adapters.adapter("b").named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    ll.activate(model, "a")
    expected = quiet(model, x)
    ll.activate(model, ["a", "b"])
    torch.testing.assert_close(quiet(model, x), expected, **CLOSE)


def test_other_methods_other_modules_and_parts() -> None:
    model, x = llama().eval(), torch.randint(2, 60, (4, 6))
    for name, spec in {
        "a": ll.LoRA(rank=2, targets=["q_proj", "mlp"]),
        "b": ll.VeRA(rank=3, targets=["q_proj", "v_proj"]),
        "c": ll.LoRA(rank=1, targets=["embed_tokens", "lm_head"]),
        "d": ll.MultiLoRA(rank=2, targets="v_proj"),
    }.items():
        give_effect(ll.attach(model, spec, name=name))
    ll.activate(model, ["d", "a", "c", "b"])
    live = quiet(model, x).logits
    ll.merge(model)
    torch.testing.assert_close(quiet(model, x).logits, live, atol=1e-5, rtol=1e-4)
    ll.unmerge(model)
    ll.detach(model, "d")
    without = quiet(model, x).logits
    assert (without - live).abs().max() > 1e-3
    ll.activate(model, ["a", "b", "c"])
    torch.testing.assert_close(quiet(model, x).logits, without)
    ll.detach(model, "a")
    ll.detach(model, "b")
    assert ll.adapters_of(model).routing.active == "c"


def test_a_copy_of_the_model_sums_its_own() -> None:
    model, x = with_two("linear")
    ll.activate(model, ["a", "b"])
    expected = quiet(model, x)
    other = copy.deepcopy(model)
    give_effect(ll.adapters_of(other).adapter("a"))
    assert not torch.allclose(quiet(other, x), expected)
    assert torch.equal(quiet(model, x), expected)
    ll.detach(model, "a")
    give_effect(ll.attach(model, ll.LoRA(rank=2, targets="inner"), name="a"))
    ll.activate(model, ["a", "b"])
    torch.testing.assert_close(quiet(model, x), exact_sum(model, x), **CLOSE)


@pytest.mark.parametrize("call", [ll.activate, ll.merge, lambda model, names: ll.rows(model, [names]).__enter__()])
def test_names_that_cannot_be(call: object) -> None:
    model, x = with_two("linear")
    expected = quiet(model, x)
    for names, error, words in (
        ([], ll.SpecError, "empty list"),
        (["a", "a"], ll.SpecError, "'a' is named more than once"),
        (["a", None], ll.SpecError, "names alone"),
        (["a", "z"], ll.UnknownAdapterError, "'z'.*there is: 'a', 'b'"),
    ):
        with pytest.raises(error, match=words):
            call(model, names)
    assert torch.equal(quiet(model, x), expected)
    ll.activate(model, ("b",))
    assert ll.adapters_of(model).routing.active == "b"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (ll.LoRA(rank=1, targets="q_proj", magnitude=True), "DoRA"),
        (ll.LoRA(rank=1, targets="q_proj", modules_to_save=["lm_head"]), "lm_head 'b' is trained in full"),
        (ll.LoRA(rank=1, targets="lm_head", magnitude=True), "DoRA"),
        (ll.FullFineTune(top_layers=1), "trained in full"),
        (ll.PrefixEmbedding(prefix=2), "positions put into the sequence"),
        (ll.BottleneckAdapter(size=2), "nonlinearity"),
    ],
)
def test_what_has_no_sum_is_refused_with_the_reason(spec: object, why: str) -> None:
    model = llama()
    ll.attach(model, ll.LoRA(rank=1, targets="q_proj"), name="a")
    ll.attach(model, spec, name="b")
    for call in (ll.activate, ll.merge, lambda model, names: ll.rows(model, [names]).__enter__()):
        with pytest.raises(ll.SpecError, match=f"'a' . 'b'.*{why}"):
            call(model, ["a", "b"])
    assert ll.adapters_of(model).routing.active == "b"
    ll.activate(model, ["b"])


def test_what_is_refused_while_several_are_merged() -> None:
    model, x = with_two("linear")
    ll.activate(model, ["a", "b"])
    ll.merge(model)
    with pytest.raises(ll.AdapterStateError, match=r"adapters 'a' \+ 'b' is merged|adapters 'a' \+ 'b'"):
        ll.activate(model, "a")
    with pytest.raises(ll.AdapterStateError, match=r"'a' \+ 'b'"):
        model.train()(x)


def test_what_is_walked_to_put_an_adapter_on_does_not_grow_with_those_there() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    before = [*model.modules()]
    for name in ("a", "b"):
        ll.attach(model, ll.LoRA(rank=2, targets=[r"0|1\.0"]), name)
    assert [*base_modules(model)] == before
    ll.detach(model)
    assert [*model.modules()] == before


def test_what_was_frozen_of_one_adapter_stays_so_when_another_comes() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    frozen = ll.attach(model, ll.LoRA(rank=2, targets=["0"]), "a")
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    trained = ll.attach(model, ll.LoRA(rank=2, targets=["0"]), "b")
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in trained.parameters())
    assert not any(parameter.requires_grad for parameter in model[0].base.parameters())
