"""The spine: live = merged = one row of a mixed batch, for every kind of layer, rank and dtype; B = 0 is the base."""

import pytest
import torch

import loralab as ll
from toys import TOYS, give_effect, quiet

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
every_kind = pytest.mark.parametrize("kind", TOYS)
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@every_kind
@every_dtype
@pytest.mark.parametrize("rank", [1, 4])
def test_live_is_merged_is_one_row_of_a_mixed_batch(kind: str, dtype: torch.dtype, rank: int) -> None:
    toy = TOYS[kind]
    model, x = toy.build().to(dtype).eval(), toy.inputs(dtype)
    base = quiet(model, x)
    outputs = {None: base}
    for name in ("sql", "chat"):
        give_effect(ll.attach(model, ll.LoRA(rank=rank, alpha=3, targets=toy.targets), name=name))
        outputs[name] = quiet(model, x)
        assert (outputs[name] - base).abs().max() > 1e-3
        ll.merge(model)
        torch.testing.assert_close(quiet(model, x), outputs[name], atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
        ll.unmerge(model)
        assert torch.equal(quiet(model, x), outputs[name])
    per_row = ["chat", None, "sql", "chat"]
    with ll.rows(model, per_row):
        mixed = quiet(model, x)
    single = torch.stack([outputs[name][row] for row, name in enumerate(per_row)])
    torch.testing.assert_close(mixed, single, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@every_kind
@pytest.mark.parametrize("init", ["kaiming", "gaussian", "orthogonal"])
def test_a_fresh_adapter_is_the_base_bit_for_bit(kind: str, init: str) -> None:
    toy = TOYS[kind]
    model, x = toy.build().eval(), toy.inputs(torch.float32)
    base = quiet(model, x)
    ll.attach(model, ll.LoRA(rank=2, targets=toy.targets, init=init))
    assert torch.equal(quiet(model, x), base)


@every_kind
def test_disabled_and_detached_are_the_base_bit_for_bit(kind: str) -> None:
    toy = TOYS[kind]
    model, x = toy.build().eval(), toy.inputs(torch.float32)
    base, keys = quiet(model, x), list(model.state_dict())
    give_effect(ll.attach(model, ll.LoRA(rank=2, targets=toy.targets)))
    with ll.disabled(model):
        assert torch.equal(quiet(model, x), base)
    ll.merge(model)
    with ll.disabled(model):
        assert torch.equal(quiet(model, x), base)
    ll.unmerge(model)
    ll.detach(model)
    assert torch.equal(quiet(model, x), base)
    assert list(model.state_dict()) == keys
    assert all(parameter.requires_grad for parameter in model.parameters())


@every_kind
def test_a_mixed_batch_trains_every_adapter_in_it(kind: str) -> None:
    toy = TOYS[kind]
    model, x = toy.build().double(), toy.inputs(torch.float64)
    gradients = {}
    for name in ("sql", "chat"):
        adapter = ll.attach(model, ll.LoRA(rank=2, targets=toy.targets), name=name)
        give_effect(adapter)
        rows = [0, 3] if name == "chat" else [2]
        model(x)[rows].square().sum().backward()
        gradients[name] = {key: parameter.grad.clone() for key, parameter in adapter.named_parameters()}
        model.zero_grad(set_to_none=True)
    with ll.rows(model, ["chat", None, "sql", "chat"]):
        model(x)[[0, 2, 3]].square().sum().backward()
    for name, expected in gradients.items():
        for key, parameter in ll.adapters_of(model).adapter(name).named_parameters():
            torch.testing.assert_close(parameter.grad, expected[key], atol=1e-8, rtol=1e-6)


@every_kind
def test_only_the_adapter_trains(kind: str) -> None:
    toy = TOYS[kind]
    model, x = toy.build(), toy.inputs(torch.float32)
    adapter = ll.attach(model, ll.LoRA(rank=2, targets=toy.targets))
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(x).square().sum().backward()
    silent = {name for name, p in adapter.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent == adapter.silent_at_first_step
    optimizer.step()
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], tensor) for name, tensor in frozen.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_merges_with_one_rounding(dtype: torch.dtype) -> None:
    toy = TOYS["linear"]
    model = toy.build().to(dtype).eval()
    adapter = ll.attach(model, ll.LoRA(rank=4, targets=toy.targets))
    give_effect(adapter)
    W = model.inner.base.weight.float()
    exact = W + 4.0 * adapter.updates["inner"].parts["weight"].lora_B @ adapter.updates["inner"].parts["weight"].lora_A
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    ll.merge(model)
    assert torch.equal(model.inner.base.weight, exact.to(dtype))
