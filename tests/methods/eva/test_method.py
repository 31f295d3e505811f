"""EVA: what A starts as, how the rank is shared out, and that the result is a plain LoRA which is still the base."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM

import loralab as ll
from loralab.methods.eva.inputs import InputWatch, base_alone, run
from loralab.methods.eva.method import attach_eva, shared_out
from small_models import build, logits
from tiny import write_t5
from toys import give_effect

Batch = dict[str, Tensor]


class Two(nn.Module):
    """Two dense layers, each with an input of its own that the test decides."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 12), nn.Linear(16, 12)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.first(x) + self.second(y)


def batches(count: int = 3, length: int = 20) -> list[Batch]:
    """Tokens for the models of `small_models`, without padding."""
    generator = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(3, 60, (4, length), generator=generator)} for _ in range(count)]


def planted(dimensions: int, count: int = 200) -> tuple[Tensor, Tensor]:
    """(an orthonormal basis [dimensions, 16], rows of equal variance along it, about a mean that is outside of it)."""
    generator = torch.Generator().manual_seed(dimensions)
    basis = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q[:dimensions]
    along = torch.linalg.qr(torch.randn(count, dimensions, generator=generator)).Q
    along = torch.cat([along, -along])  # a mean of exactly zero, and equal variances
    return basis, along @ basis + torch.randn(16, generator=generator)


def first_A(adapter: ll.Adapter, path: str) -> Tensor:
    return adapter.state_dict()[f"{path}.lora_A"]


@pytest.mark.parametrize("rho", [1.0, 2.0, 4.0])
def test_rows_are_orthonormal_and_the_ranks_sum_to_the_budget(rho: float) -> None:
    adapter = attach_eva(build("llama"), ll.LoRA(rank=3, targets="all-linear"), batches(), rho=rho)
    ranks = []
    for name, A in adapter.state_dict().items():
        if name.endswith("lora_A"):
            ranks.append(len(A))
            torch.testing.assert_close(A @ A.T, torch.eye(len(A)), atol=1e-5, rtol=0)
    assert sum(ranks) == 3 * 3 * 7
    assert max(ranks) <= 3 * rho
    assert (len(set(ranks)) == 1) == (rho == 1.0)


@pytest.mark.parametrize("model_name", ["llama", "gpt2", "bert"])
def test_a_fresh_adapter_is_the_base_bit_for_bit(model_name: str) -> None:
    model = build(model_name)
    before = logits(model)
    adapter = attach_eva(model, ll.LoRA(rank=4), batches())
    assert torch.equal(logits(model), before)
    give_effect(adapter)
    assert not torch.equal(logits(model), before)


def test_a_planted_subspace_is_found_exactly() -> None:
    basis, x = planted(3)
    adapter = attach_eva(Two(), ll.LoRA(rank=3, targets=["first"]), [{"x": x, "y": x}], rho=1.0)
    A = first_A(adapter, "first")
    torch.testing.assert_close(A @ basis.T @ basis, A, atol=1e-5, rtol=0)
    assert torch.linalg.svdvals(A @ basis.T).min() > 1 - 1e-5


def test_rank_beyond_the_variance_is_not_given() -> None:
    _, x = planted(3)
    adapter = attach_eva(Two(), ll.LoRA(rank=8, targets=["first"]), [{"x": x, "y": x}], rho=1.0)
    assert len(first_A(adapter, "first")) == 3
    assert "3 of 8" in adapter.notes[0]


def test_the_layer_without_a_share_has_no_adapter_and_the_other_keeps_its_scale() -> None:
    model, x, y = Two(), planted(4)[1], planted(16)[1]  # shares of 1/4 and of 1/16
    spec = ll.LoRA(rank=2, alpha=6.0, targets=["first", "second"])
    adapter = attach_eva(model, spec, [{"x": x, "y": y}])
    assert adapter.matched == ["first"]
    assert (adapter.spec.rank_pattern, adapter.spec.alpha_pattern) == ({"first": 4}, {"first": 12.0})
    assert adapter.updates["first"].factors_of("weight").recipe.scale == 3.0
    assert isinstance(model.second, nn.Linear)
    assert "1 of 2 weights got none" in adapter.notes[0]
    again = ll.attach(Two(), adapter.spec)
    assert [len(A) for name, A in again.state_dict().items() if name.endswith("A")] == [4]


def test_the_scale_stays_under_rank_stabilisation_too() -> None:
    x, y = planted(4)[1], planted(16)[1]
    spec = ll.LoRA(rank=2, alpha=6.0, targets=["first", "second"], rank_stabilized=True)
    adapter = attach_eva(Two(), spec, [{"x": x, "y": y}])
    assert adapter.updates["first"].factors_of("weight").recipe.scale == pytest.approx(6.0 / 2**0.5)


def test_equal_shares_go_to_the_earlier_place_and_never_beyond_the_budget() -> None:
    shares = {"a": torch.tensor([0.5, 0.2]), "b": torch.tensor([0.5, 0.3]), "c": torch.tensor([0.1])}
    assert shared_out(shares, 1) == {"a": 1, "b": 0, "c": 0}
    assert shared_out(shares, 3) == {"a": 1, "b": 2, "c": 0}
    assert shared_out(shares, 9) == {"a": 2, "b": 2, "c": 1}


def test_padding_does_not_matter() -> None:
    def padded(fill: int, width: int) -> Batch:
        ids = torch.full((2, width), fill)
        ids[0, :10], ids[1, :6] = torch.arange(3, 13), torch.arange(20, 26)
        return {"input_ids": ids, "attention_mask": (torch.arange(width) < torch.tensor([[10], [6]])).long()}

    spec = ll.LoRA(rank=3, targets="all-linear")
    one, other = (attach_eva(build("llama"), spec, [padded(*of)]) for of in ((0, 10), (41, 14)))
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, atol=1e-4, rtol=0)
    without = attach_eva(build("llama"), spec, [{"input_ids": padded(41, 14)["input_ids"]}])
    assert any(
        without.state_dict().get(name, tensor).shape != tensor.shape
        or not torch.allclose(without.state_dict()[name], tensor, atol=1e-2)
        for name, tensor in one.state_dict().items()
    )


def test_only_labelled_tokens_count_unless_the_mask_is_off() -> None:
    ids = batches(1)[0]["input_ids"]
    labels = ids.clone()
    labels[:, :8] = -100
    spec, name = ll.LoRA(rank=3, targets=["q_proj"], layers=[0]), "model.layers.0.self_attn.q_proj"
    masked = first_A(attach_eva(build("llama"), spec, [{"input_ids": ids, "labels": labels}]), name)
    unmasked = first_A(attach_eva(build("llama"), spec, [{"input_ids": ids, "labels": labels}], label_mask=False), name)
    model = build("llama")
    with torch.no_grad():
        x = model.model.layers[0].input_layernorm(model.model.embed_tokens(ids))[:, 8:].flatten(0, 1)
    expected = torch.linalg.svd(x - x.mean(0)).Vh[:3]
    torch.testing.assert_close((masked * expected).sum(1).abs(), torch.ones(3), atol=1e-4, rtol=0)
    assert (unmasked * expected).sum(1).abs().min() < 0.99


def test_whitening_divides_by_the_root_of_the_singular_values() -> None:
    x = planted(16)[1]
    x[:, 0] *= 3
    plain, white = (
        first_A(attach_eva(Two(), ll.LoRA(rank=3, targets=["first"]), [{"x": x, "y": x}], whiten=whiten), "first")
        for whiten in (False, True)
    )
    values = torch.linalg.svdvals(x - x.mean(0))[:3]
    torch.testing.assert_close(white, plain / values.sqrt()[:, None])


def test_batches_are_taken_until_the_directions_have_settled() -> None:
    taken = []

    def many() -> Iterator[Batch]:
        x, y = planted(4)[1], planted(3)[1]
        for number in range(9):
            taken.append(number)
            yield {"x": x * torch.arange(1, 17), "y": y * torch.arange(1, 17)}

    adapter = attach_eva(Two(), ll.LoRA(rank=2, targets=["first", "second"]), many())
    assert len(taken) == 2
    assert len(adapter.notes) == 1
    stopped = attach_eva(build("llama"), ll.LoRA(rank=3), batches(2), tau=1.0)
    assert "still turned" in stopped.notes[1]


def test_parts_of_a_fused_projection_have_its_input_and_may_be_left_out_alone() -> None:
    model = build("gpt2")
    adapter = attach_eva(model, ll.LoRA(rank=1, targets="c_attn[q,v],mlp.c_proj"), batches(), rho=3.0)
    state = adapter.state_dict()
    both = [path for path, update in adapter.updates.items() if set(update.parts) == {"q", "v"}]
    assert both
    for path in both:
        shared = min(len(state[f"{path}.{part}.lora_A"]) for part in "qv")
        torch.testing.assert_close(state[f"{path}.q.lora_A"][:shared], state[f"{path}.v.lora_A"][:shared])
    assert sum(len(A) for name, A in state.items() if name.endswith("lora_A")) == 9


def test_a_part_without_a_share_leaves_its_sibling() -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.other = nn.Linear(16, 48), nn.Linear(16, 12)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.qkv(x).sum() + self.other(y).sum()

    spec = ll.LoRA(rank=1, targets=["qkv[q,v]", "other"])
    adapter = attach_eva(Fused(), spec, [{"x": planted(16)[1], "y": planted(5)[1]}], rho=2.0)
    assert set(adapter.updates) == {"qkv", "other"}
    assert set(adapter.updates["qkv"].parts) == {"q"}


def test_it_is_of_the_base_though_another_adapter_speaks_and_dropout_is_on() -> None:
    spec = ll.LoRA(rank=3, targets="all-linear")
    alone = attach_eva(build("llama"), spec, batches())
    model = build("llama").train()
    give_effect(ll.attach(model, ll.LoRA(rank=2, dropout=0.5), name="loud"))
    beside = attach_eva(model, spec, batches(), name="eva")
    assert all(torch.equal(tensor, alone.state_dict()[name]) for name, tensor in beside.state_dict().items())
    assert model.training


def test_it_combines_with_dora_and_with_a_frozen_a() -> None:
    for changes in ({"magnitude": True}, {"freeze_a": True}):
        model = build("llama")
        before = logits(model)
        adapter = attach_eva(model, ll.LoRA(rank=3, targets=["q_proj"], **changes), batches())
        A = first_A(adapter, adapter.matched[0])
        torch.testing.assert_close(A @ A.T, torch.eye(len(A)), atol=1e-5, rtol=0)
        torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_saved_and_loaded_here_and_by_peft_it_computes_the_same(tmp_path: Path) -> None:
    model = build("llama")
    spec = ll.LoRA(rank=2, alpha=5.0, targets="all-linear", exclude=["k_proj"], init="eva")
    adapter = attach_eva(model, spec, batches(), rho=3.0)
    ranks = {len(A) for name, A in adapter.state_dict().items() if name.endswith("lora_A")}
    assert len(ranks) > 2
    base = logits(build("llama"))
    give_effect(adapter)
    expected = logits(model)
    assert (expected - base).abs().max() > 1e-3
    ll.save(adapter, tmp_path, model=model)
    ours, theirs = build("llama"), PeftModel.from_pretrained(copy.deepcopy(build("llama")), tmp_path).eval()
    ll.load(ours, tmp_path)
    assert torch.equal(logits(ours), expected)
    torch.testing.assert_close(logits(theirs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "spec, options, said",
    [
        (ll.LoRA(targets=["embed_tokens", "q_proj"]), {}, r"embed_tokens \(Embedding\)"),
        (ll.LoRA(init="gaussian"), {}, "another start"),
        (ll.LoRA(), {"rho": 0.5}, "rho is 0.5"),
        (ll.LoRA(), {"tau": 1.5}, "tau is 1.5"),
    ],
)
def test_what_cannot_start_is_said_and_leaves_the_model_alone(spec: ll.LoRA, options: dict, said: str) -> None:
    model = build("llama")
    with pytest.raises(ll.SpecError, match=said):
        attach_eva(model, spec, batches(), **options)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_batches_that_say_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ll.SpecError, match="no batches"):
        attach_eva(build("llama"), ll.LoRA(), [])
    with pytest.raises(ll.NumericsError, match="varies"):
        attach_eva(Two(), ll.LoRA(rank=2, targets=["first"]), [{"x": torch.ones(5, 16), "y": torch.ones(5, 16)}])
    model = AutoModelForSeq2SeqLM.from_pretrained(write_t5(tmp_path))
    with pytest.raises(ll.SpecError, match="encoder and a decoder"):
        attach_eva(model, ll.LoRA(rank=2), batches())


def test_plain_attach_says_where_the_data_go() -> None:
    with pytest.raises(ll.SpecError, match="attach_eva"):
        ll.attach(build("llama"), ll.LoRA(init="eva"))


def test_a_path_that_ends_another_names_itself_alone() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = nn.Linear(16, 16)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj, self.inner = nn.Linear(16, 16), Inner()

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.proj(x) + self.inner.proj(y)

    few, many = planted(2)[1], planted(16)[1]
    spec = ll.LoRA(rank=2, targets=["proj"])
    outer = attach_eva(Outer(), spec, [{"x": few, "y": many}])
    assert {name: len(A) for name, A in outer.state_dict().items() if name.endswith("A")} == {
        "proj.lora_A": 2,
        "inner.proj.lora_A": 2,
    }
    four = planted(4)[1]
    assert attach_eva(Outer(), spec, [{"x": four, "y": many}]).matched == ["proj"]
    mixed = attach_eva(Outer(), ll.LoRA(rank=3, targets=["proj"]), [{"x": four, "y": planted(2)[1]}])
    assert {name: len(A) for name, A in mixed.state_dict().items() if name.endswith("A")} == {
        "proj.lora_A": 4,
        "inner.proj.lora_A": 2,
    }
    assert {update.factors_of("weight").recipe.scale for update in mixed.updates.values()} == {16 / 3}


def test_an_input_that_layers_share_is_looked_at_once() -> None:
    model, seen = build("llama"), []
    paths = [f"model.layers.{i}.self_attn.{name}_proj" for i in range(3) for name in "qkvo"]
    watch = InputWatch(paths, lambda path, rows: seen.append((path, tuple(rows.shape))))
    with base_alone(model), watch.on(model):
        for batch in batches(2):
            watch.new_batch(None)
            run(model, paths, batch)
    assert [path.split(".", 2)[2] for path, _ in seen] == [
        f"{i}.self_attn.{n}_proj" for i in range(3) for n in "qo"
    ] * 2
    assert {shape for _, shape in seen} == {(80, 32)}
    assert watch.owner["model.layers.1.self_attn.v_proj"] == "model.layers.1.self_attn.q_proj"
