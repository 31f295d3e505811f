"""Weighted sums of adapters: exact by concatenation, truncated with an honest error."""

from pathlib import Path

import pytest
import torch

import loralab as ll
from small_models import bert, llama
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


def test_rank_stabilised_adapters_sum_by_their_changes() -> None:
    toy = TOYS["linear"]
    model = toy.build().eval()
    for name, rank in (("a", 4), ("b", 2)):
        spec = ll.LoRA(rank=rank, alpha=3, targets=toy.targets, rank_stabilized=True)
        give_effect(ll.attach(model, spec, name=name))
    ll.combine(model, {"a": 1.0}, name="alone")
    ll.combine(model, {"a": 1.0, "b": -0.5}, name="mix")
    one, other = (deltas_of(model, name)["inner.weight"] for name in ("a", "b"))
    torch.testing.assert_close(deltas_of(model, "alone")["inner.weight"], one)
    torch.testing.assert_close(deltas_of(model, "mix")["inner.weight"], one - 0.5 * other)


def test_rows_of_an_embedding_have_no_sum() -> None:
    model = llama()
    for name, rows in (("a", [3, 4]), ("b", [4, 5])):
        spec = ll.LoRA(rank=2, targets=["q_proj"], trainable_token_indices=rows)
        give_effect(ll.attach(model, spec, name=name))
    for together in (ll.activate, ll.merge):
        with pytest.raises(ll.SpecError, match=r"no sum: at model\.embed_tokens"):
            together(model, ["a", "b"])


def test_what_has_no_sum_is_refused() -> None:
    model, _ = with_two("linear")
    with pytest.raises(ll.SpecError, match="no adapters"):
        ll.combine(model, {}, name="mix")
    with pytest.raises(ll.SpecError, match="rank 0"):
        ll.combine(model, {"a": 1.0}, name="mix", rank=0)
    with pytest.raises(ll.UnknownAdapterError):
        ll.combine(model, {"a": 1.0, "z": 1.0}, name="mix")


def test_biases_sum_by_their_changes() -> None:
    model, deltas = with_two("linear")
    bias = model.inner.bias.detach().clone()
    give_effect(ll.attach(model, ll.LoRA(rank=2, targets="inner", bias="lora_only"), name="c"))
    give_effect(ll.attach(model, ll.LoRA(rank=1, targets="inner", bias="all"), name="d"))
    trained = {name: bias_of(model, name) for name in ("c", "d")}
    ll.combine(model, {"a": 0.5, "c": 2.0}, name="one")
    torch.testing.assert_close(bias_of(model, "one"), bias + 2 * (trained["c"] - bias))
    expected = 0.5 * deltas["a"]["inner.weight"] + 2 * deltas_of(model, "c")["inner.weight"]
    torch.testing.assert_close(deltas_of(model, "one")["inner.weight"], expected)
    ll.combine(model, {"c": 0.3, "d": -0.7}, name="two")
    torch.testing.assert_close(bias_of(model, "two"), bias + 0.3 * (trained["c"] - bias) - 0.7 * (trained["d"] - bias))


def bias_of(model: torch.nn.Module, name: str) -> torch.Tensor:
    return ll.adapters_of(model).adapter(name).updates["inner"].replacements()["bias"].detach()


def test_a_head_that_one_adapter_has_is_kept_whole(tmp_path: Path) -> None:
    model, x = bert().eval(), torch.randint(2, 60, (4, 6))
    give_effect(ll.attach(model, ll.LoRA(rank=2, modules_to_save=[]), name="a"))
    give_effect(ll.attach(model, ll.LoRA(rank=2), name="b"))
    mix = ll.combine(model, {"a": 0.7, "b": 0.3}, name="mix")
    assert (mix.heads, mix.notes[0].split(" is ")[0]) == (("classifier",), "classifier")
    head = ll.adapters_of(model).adapter("b").updates["classifier"].replacements()
    for name, tensor in mix.updates["classifier"].replacements().items():
        assert torch.equal(tensor, head[name])
        assert tensor is not head[name]
    live = quiet(model, x).logits
    ll.save(mix, tmp_path)
    ll.load(model, tmp_path, name="again")
    torch.testing.assert_close(quiet(model, x).logits, live)


def test_equal_heads_are_kept_and_different_ones_refused() -> None:
    model = bert()
    for name in ("a", "b"):
        give_effect(ll.attach(model, ll.LoRA(rank=2), name=name))
    with pytest.raises(ll.SpecError, match="classifier in full, and 'a' and 'b' hold different copies"):
        ll.combine(model, {"a": 1.0, "b": 1.0}, name="mix")
    adapters = ll.adapters_of(model)
    theirs = adapters.adapter("b").updates["classifier"]
    theirs.load_state_dict(adapters.adapter("a").updates["classifier"].state_dict())
    mix = ll.combine(model, {"a": 0.5, "b": -1.0}, name="mix")
    for name, tensor in mix.updates["classifier"].replacements().items():
        assert torch.equal(tensor, theirs.replacements()[name])


@pytest.mark.parametrize(
    "spec",
    [ll.PrefixEmbedding(prefix=2), ll.PrefixLayer(prefix=2), ll.BottleneckAdapter(size=2), ll.FullFineTune()],
    ids=lambda spec: type(spec).__name__,
)
def test_what_is_no_low_rank_update_is_refused(spec: object) -> None:
    model = llama()
    ll.attach(model, spec, name="a")
    with pytest.raises(ll.SpecError, match="only low-rank updates and biases have a sum"):
        ll.combine(model, {"a": 0.5}, name="mix")


DORA = ["linear", "conv1d of transformers", "fused thirds", "fused thirds, stored transposed", "embedding", "conv2d"]


@pytest.mark.parametrize("kind", DORA)
def test_dora_is_combined_by_its_change_in_full_with_the_error(kind: str) -> None:
    model, deltas = with_two(kind)
    targets = TOYS[kind].targets
    give_effect(ll.attach(model, ll.LoRA(rank=2, targets=targets, magnitude=True), name="dora"))
    ((key, change),) = deltas_of(model, "dora").items()
    with pytest.raises(ll.SpecError, match=r"DoRA.*give rank"):
        ll.combine(model, {"a": 0.7, "dora": 0.5}, name="mix")
    exact = 0.7 * deltas["a"][key] + 0.5 * change
    for rank in (1, 3, 64):
        mix = ll.combine(model, {"a": 0.7, "dora": 0.5}, name=f"mix{rank}", rank=rank)
        lost = (deltas_of(model, f"mix{rank}")[key] - exact).norm() / exact.norm()
        assert float(lost) <= mix.spec.largest_error + 1e-6
        assert (mix.spec.largest_error < 1e-6) == (rank == 64)
    before = quiet(model, TOYS[kind].inputs(torch.float64))
    assert ll.merge(model).changes[key] == pytest.approx(float(exact.norm()), rel=1e-5)
    ll.unmerge(model)
    assert before.isfinite().all()


def test_dora_alone_becomes_the_nearest_lora_of_a_rank() -> None:
    model, _ = with_two("linear")
    give_effect(ll.attach(model, ll.LoRA(rank=2, targets="inner", magnitude=True), name="dora"))
    change = deltas_of(model, "dora")["inner.weight"]
    mix = ll.combine(model, {"dora": 1.0}, name="mix", rank=4)
    S = torch.linalg.svdvals(change)
    assert mix.spec.errors["inner.weight"] == pytest.approx(float(S[4:].norm() / S.norm()), rel=1e-6)


def test_combining_under_a_merged_adapter_is_refused() -> None:
    model, _ = with_two("linear")
    ll.merge(model)
    with pytest.raises(ll.AdapterStateError, match="combine"):
        ll.combine(model, {"a": 1.0}, name="mix")
