"""AdaMix of bottlenecks: experts drawn in training, their mean outside it, one plain bottleneck in the end."""

from pathlib import Path

import pytest
import torch

import loralab as ll
from loralab.methods.adamix_adapter import AdaMixAdapter, MixedBottleneckUpdate
from small_models import build, logits
from toys import give_effect

SPEC = AdaMixAdapter(size=4, experts=3)


def update_of(adapter: ll.Adapter) -> MixedBottleneckUpdate:
    """The first of the adapter's updates."""
    found = adapter.updates[adapter.matched[0]]
    assert isinstance(found, MixedBottleneckUpdate)
    return found


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_fresh_one_is_the_base_and_comes_back_from_disk(name: str, tmp_path: Path) -> None:
    model = build(name)
    before = logits(model)
    adapter = ll.attach(model, SPEC)
    assert torch.equal(logits(model), before)
    give_effect(adapter)
    live = logits(model)
    ll.save(adapter, tmp_path, model=model)
    ll.detach(model)
    assert torch.equal(logits(model), before)
    loaded = ll.load(model, tmp_path)
    assert torch.equal(logits(model), live)
    assert isinstance(loaded.spec, AdaMixAdapter)
    assert loaded.spec.experts == 3


@pytest.mark.parametrize("share, down, up", [("B", 3, 1), ("A", 1, 3), ("none", 3, 3)])
def test_it_trains_the_experts_of_both_sides(share: str, down: int, up: int) -> None:
    adapter = ll.attach(build("bert"), AdaMixAdapter(size=4, experts=3, share=share))
    layers, d, size = len(adapter.matched), 32, 4
    trained = sum(p.numel() for name, p in adapter.named_parameters() if not adapter.in_head(name))
    assert trained == layers * (down * (size * d + size) + up * (size * d + d))


def test_outside_training_it_is_the_mean_of_weights_and_biases() -> None:
    model = build("gpt2")
    adapter = ll.attach(model, AdaMixAdapter(size=4, experts=3, share="none"))
    give_effect(adapter)
    h = torch.randn(2, 5, 32)
    update = update_of(adapter)
    layer = torch.nn.Identity()
    assert torch.equal(update(layer, h), update(layer, h))
    plain = update.averaged()
    torch.testing.assert_close(plain(layer, h), update(layer, h))
    down = torch.stack([update.added.get_parameter(f"down_bias_{i}") for i in range(3)]).mean(0)
    torch.testing.assert_close(plain.added.get_parameter("down_bias"), down)


def test_in_training_one_expert_of_each_side_has_a_gradient() -> None:
    model = build("gpt2").train()
    adapter = ll.attach(model, AdaMixAdapter(size=4, experts=3, share="none"))
    give_effect(adapter)
    logits(model).square().sum().backward()
    added = update_of(adapter).added
    for side in ("down", "up"):
        reached = [i for i in range(3) if added.get_parameter(f"{side}_weight_{i}").grad is not None]
        assert len(reached) == 1
        assert added.get_parameter(f"{side}_bias_{reached[0]}").grad is not None


def test_it_cannot_be_merged_and_refuses_what_cannot_be() -> None:
    model = build("gpt2")
    ll.attach(model, SPEC)
    with pytest.raises(ll.AdapterStateError, match="keep it live"):
        ll.merge(model)
    with pytest.raises(ll.SpecError, match="experts is 0"):
        AdaMixAdapter(experts=0)
    with pytest.raises(ll.SpecError, match="share is 'C'"):
        AdaMixAdapter(share="C")
