"""What PEFT's own tests say of any adapter (peers.md §4.2), where our tests of the core do not say it already."""

import copy

import pytest
import torch
from torch import nn

import loralab as ll
from toys import TOYS, give_effect, quiet

every_kind = pytest.mark.parametrize("kind", TOYS)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def adapted(kind: str, *names: str, **fields: object) -> tuple[nn.Module, torch.Tensor]:
    """(a toy with one adapter with an effect per name, an input)."""
    toy = TOYS[kind]
    model = toy.build().eval()
    for name in names:
        give_effect(ll.attach(model, ll.LoRA(**{"rank": 2, "targets": toy.targets, **fields}), name=name))
    return model, toy.inputs(torch.float32)


def required(model: nn.Module) -> set[int]:
    return {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def owned(model: nn.Module, *names: str) -> set[int]:
    return {id(parameter) for name in names for parameter in ll.adapters_of(model).adapter(name).parameters()}


# -- leaving contexts ------------------------------------------------------------------------------------------------


@every_kind
def test_leaving_disabled_brings_the_adapter_back(kind: str) -> None:
    model, x = adapted(kind, "sql")
    live = quiet(model, x)
    with ll.disabled(model):
        base = quiet(model, x)
        with ll.disabled(model):
            assert torch.equal(quiet(model, x), base)
        assert torch.equal(quiet(model, x), base)
    assert torch.equal(quiet(model, x), live)
    assert not torch.equal(live, base)


@pytest.mark.parametrize("merged", [False, True])
def test_an_error_inside_disabled_brings_the_adapter_back(merged: bool) -> None:
    model, x = adapted("linear", "sql")
    if merged:
        ll.merge(model)
    live, trained = quiet(model, x), required(model)
    with pytest.raises(ZeroDivisionError), ll.disabled(model):
        raise ZeroDivisionError
    assert torch.equal(quiet(model, x), live)
    assert required(model) == trained


def test_an_error_inside_rows_brings_the_active_adapter_back() -> None:
    model, x = adapted("linear", "sql", "chat")
    live = quiet(model, x)
    with pytest.raises(ll.SpecError, match="batch of 4"), ll.rows(model, ["sql"]):
        quiet(model, x)
    assert torch.equal(quiet(model, x), live)


def test_contexts_nest() -> None:
    model, x = adapted("linear", "sql", "chat")
    chat = quiet(model, x)
    with ll.rows(model, ["sql"] * 4):
        sql = quiet(model, x)
        with ll.disabled(model):
            base = quiet(model, x)
        assert torch.equal(quiet(model, x), sql)
    assert torch.equal(quiet(model, x), chat)
    ll.activate(model, None)
    assert torch.equal(quiet(model, x), base)


def test_activating_the_base_lasts_through_disabled() -> None:
    model, x = adapted("linear", "sql")
    ll.activate(model, None)
    base = quiet(model, x)
    with ll.disabled(model):
        pass
    assert torch.equal(quiet(model, x), base)


# -- what requires a gradient ------------------------------------------------------------------------------------------


def test_exactly_the_adapters_parameters_require_a_gradient() -> None:
    model, _ = adapted("linear", "sql", "chat", bias="all", modules_to_save=["first"])
    assert required(model) == owned(model, "sql", "chat")
    ll.activate(model, "sql")
    assert required(model) == owned(model, "sql", "chat")
    ll.merge(model)
    assert required(model) == owned(model, "chat")
    ll.unmerge(model)
    ll.detach(model, "chat")
    assert required(model) == owned(model, "sql")


def test_a_base_that_was_partly_frozen_is_so_again() -> None:
    model = TOYS["linear"].build()
    model.first.weight.requires_grad_(False)
    before = required(model)
    ll.attach(model, ll.LoRA(rank=2, targets="inner"))
    with ll.disabled(model):
        assert required(model) >= before
    ll.detach(model)
    assert required(model) == before


def test_only_the_active_adapter_gets_a_gradient() -> None:
    model, x = adapted("llama", "sql", "chat")
    model(x).square().sum().backward()
    assert all(p.grad is None for p in ll.adapters_of(model).adapter("sql").parameters())
    assert all(p.grad is not None and p.grad.any() for p in ll.adapters_of(model).adapter("chat").parameters())


def test_only_the_chosen_blocks_train() -> None:
    model, x = adapted("llama", "sql", targets=["q_proj"], layers=[1])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(x).square().sum().backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert len(moved) == 2
    assert all(".layers.1.self_attn.q_proj." in name for name in moved)


# -- taking adapters off -----------------------------------------------------------------------------------------------


@every_kind
def test_detaching_gives_back_the_very_modules_and_values(kind: str) -> None:
    toy = TOYS[kind]
    model = toy.build().eval()
    modules = dict(model.named_modules(remove_duplicate=False))
    state = copy.deepcopy(model.state_dict())
    for name in ("sql", "chat"):
        give_effect(ll.attach(model, ll.LoRA(rank=2, targets=toy.targets), name=name))
        ll.merge(model)
        ll.unmerge(model)
    ll.detach(model, "sql")
    ll.detach(model)
    assert dict(model.named_modules(remove_duplicate=False)) == modules
    after = model.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("gone", ["sql", "chat"])
def test_detaching_one_leaves_the_other_bit_for_bit(gone: str) -> None:
    model, x = adapted("llama", "sql", "chat")
    other = {"sql": "chat", "chat": "sql"}[gone]
    ll.activate(model, other)
    expected = quiet(model, x)
    ll.detach(model, gone)
    assert torch.equal(quiet(model, x), expected)
    assert list(ll.adapters_of(model).adapters) == [other]


def test_detaching_the_active_one_leaves_the_base() -> None:
    model, x = adapted("linear", "sql", "chat")
    ll.activate(model, None)
    base = quiet(model, x)
    ll.activate(model, "chat")
    ll.detach(model, "chat")
    assert torch.equal(quiet(model, x), base)
    with pytest.raises(ll.AdapterStateError, match="no adapter is active"):
        ll.merge(model)
    with pytest.raises(ll.UnknownAdapterError, match="'chat'"):
        ll.activate(model, "chat")


@pytest.mark.parametrize("merged", [False, True])
def test_a_refused_detach_changes_nothing(merged: bool) -> None:
    model, x = adapted("linear", "sql", "chat")
    if merged:
        ll.merge(model)
    before = quiet(model, x)
    with pytest.raises(ll.LoralabError):
        ll.detach(model, "chat" if merged else "nobody")
    assert torch.equal(quiet(model, x), before)
    assert list(ll.adapters_of(model).adapters) == ["sql", "chat"]


def test_a_name_is_free_again_once_detached() -> None:
    model, x = adapted("linear", "sql")
    ll.detach(model, "sql")
    base = quiet(model, x)
    give_effect(ll.attach(model, ll.LoRA(rank=3, targets="inner"), name="sql"))
    assert (quiet(model, x) - base).abs().max() > 1e-3


# -- merging -----------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_merging_one_after_another_is_merging_their_sum(kind: str, dtype: torch.dtype) -> None:
    toy = TOYS[kind]
    model = toy.build().to(dtype).eval()
    x = toy.inputs(dtype)
    for name in ("sql", "chat"):
        give_effect(ll.attach(model, ll.LoRA(rank=2, targets=toy.targets), name=name), std=0.05)
    ll.combine(model, {"sql": 1.0, "chat": 1.0}, "both")
    live = quiet(model, x)
    merged = copy.deepcopy(model)
    ll.detach(merged, "both")
    state = ll.adapters_of(merged).adapter("chat").state_dict()
    ll.merge(merged, "sql")
    ll.detach(merged, keep_merged=True)
    ll.attach(merged, ll.LoRA(rank=2, targets=toy.targets)).load_state_dict(state)
    ll.merge(merged)
    torch.testing.assert_close(quiet(merged, x), live, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@every_kind
def test_merged_and_disabled_and_unmerged_again_and_again(kind: str) -> None:
    model, x = adapted(kind, "sql")
    live = quiet(model, x)
    with ll.disabled(model):
        base = quiet(model, x)
    for _ in range(3):
        ll.merge(model)
        with ll.disabled(model):
            assert torch.equal(quiet(model, x), base)
        torch.testing.assert_close(quiet(model, x), live, atol=1e-5, rtol=1e-5)
        ll.unmerge(model)
        assert torch.equal(quiet(model, x), live)


# -- exchanging tensors ------------------------------------------------------------------------------------------------


@every_kind
def test_tensors_are_exchanged_in_place(kind: str) -> None:
    model, x = adapted(kind, "sql", "chat")
    chat = quiet(model, x)
    ll.adapters_of(model).adapter("sql").load_state_dict(ll.adapters_of(model).adapter("chat").state_dict())
    ll.activate(model, "sql")
    assert torch.equal(quiet(model, x), chat)


def test_adapters_of_a_model_without_weights_have_none_either() -> None:
    with torch.device("meta"):
        model = TOYS["llama"].build()
    adapter = ll.attach(model, ll.LoRA(rank=2, targets=["q_proj", "lm_head"]))
    assert {parameter.device.type for parameter in adapter.parameters()} == {"meta"}
