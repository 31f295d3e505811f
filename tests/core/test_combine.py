"""Weighted sums of adapters: exact by concatenation, truncated with an honest error."""

import pytest
import torch

import loralab as ll
from toys import TOYS, give_effect, quiet

KINDS = [kind for kind in TOYS if "attention" not in kind]


def with_two(kind: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A model with adapters a (rank 2) and b (rank 1), and their deltas by tensor."""
    toy = TOYS[kind]
    model, deltas = toy.build().double().eval(), {}
    for name, rank in (("a", 2), ("b", 1)):
        give_effect(ll.attach(model, ll.LoRA(rank=rank, alpha=3, targets=toy.targets), name=name))
        deltas[name] = deltas_of(model, name)
    return model, deltas


def deltas_of(model: torch.nn.Module, name: str) -> dict[str, torch.Tensor]:
    adapters = ll.adapters_of(model)
    return {
        f"{path}.{tensor}": value.detach()
        for path, update in adapters.adapter(name).updates.items()
        for tensor, value in update.deltas(adapters.layers[path].base).items()
    }


@pytest.mark.parametrize("kind", TOYS)
def test_the_exact_combination_is_the_weighted_sum_of_deltas(kind: str) -> None:
    model, deltas = with_two(kind)
    mix = ll.combine(model, {"a": 0.7, "b": -0.3}, name="mix")
    for tensor, combined in deltas_of(model, "mix").items():
        expected = 0.7 * deltas["a"][tensor] - 0.3 * deltas["b"][tensor]
        torch.testing.assert_close(combined, expected, atol=1e-6, rtol=1e-5)
    assert mix.spec.largest_error == 0.0
    assert quiet(model, TOYS[kind].inputs(torch.float64)).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_combination_in_a_lower_rank_reports_its_error(kind: str) -> None:
    model, deltas = with_two(kind)
    mix = ll.combine(model, {"a": 1.0, "b": 1.0}, name="mix", rank=1)
    exact = {tensor: deltas["a"][tensor] + deltas["b"][tensor] for tensor in deltas["a"]}
    lost = {
        tensor: (value - exact[tensor]).norm() / exact[tensor].norm()
        for tensor, value in deltas_of(model, "mix").items()
    }
    assert mix.spec.largest_error > 1e-3
    assert max(lost.values()) <= mix.spec.largest_error + 1e-5
    assert ll.combine(model, {"a": 1.0, "b": 1.0}, name="whole", rank=3).spec.largest_error < 1e-6


def test_parts_that_only_one_adapter_has_are_kept() -> None:
    toy = TOYS["fused thirds"]
    model = toy.build().eval()
    for name, part in (("a", "q"), ("b", "v")):
        give_effect(ll.attach(model, ll.LoRA(rank=2, targets=f"inner[{part}]"), name=name))
    ll.combine(model, {"a": 1.0, "b": 1.0}, name="mix")
    expected = deltas_of(model, "a")["inner.weight"] + deltas_of(model, "b")["inner.weight"]
    torch.testing.assert_close(deltas_of(model, "mix")["inner.weight"], expected)


def test_what_has_no_sum_is_refused() -> None:
    model, _ = with_two("linear")
    with pytest.raises(ll.SpecError, match="no adapters"):
        ll.combine(model, {}, name="mix")
    with pytest.raises(ll.SpecError, match="rank 0"):
        ll.combine(model, {"a": 1.0}, name="mix", rank=0)
    with pytest.raises(ll.UnknownAdapterError):
        ll.combine(model, {"a": 1.0, "z": 1.0}, name="mix")
    ll.attach(model, ll.LoRA(rank=2, targets="inner", bias="lora_only"), name="c")
    with pytest.raises(ll.SpecError, match="in full"):
        ll.combine(model, {"a": 1.0, "c": 1.0}, name="mix")
