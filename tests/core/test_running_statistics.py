"""Batch normalisation under an adapter: the base's statistics stay, and an adapter's own are part of it."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

import loralab as ll

Spec = Callable[[], object]
X = torch.randn(16, 8, generator=torch.Generator().manual_seed(1)) * 3 + 1
STATISTICS = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}

FROZEN: dict[str, Spec] = {
    "lora": lambda: ll.LoRA(rank=2, targets=["0"]),
    "lora beside": lambda: ll.LoRA(rank=2, targets=["0"], modules_to_save=["3"]),
    "bitfit": ll.BitFit,
}
OWN: dict[str, Spec] = {
    "saved in full": lambda: ll.LoRA(rank=2, targets=["0"], modules_to_save=["1", "3"]),
    "full": ll.FullFineTune,
    "grass": lambda: ll.Grass(rank=2),
}


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def trained(base: nn.Module, spec: object, steps: int = 3) -> tuple[nn.Module, ll.Adapter]:
    """A copy of the base with an adapter that was trained a little, in evaluation mode."""
    adapted = copy.deepcopy(base)
    adapter = ll.attach(adapted, spec)
    adapted.train()
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        adapted(X).square().mean().backward()
        optimizer.step()
    return adapted.eval(), adapter


@pytest.mark.parametrize("name", [*FROZEN, *OWN])
def test_the_base_comes_back_and_what_was_trained_is_what_was_saved(name: str, tmp_path: Path) -> None:
    base = model().eval()
    adapted, adapter = trained(base, (FROZEN | OWN)[name]())
    after = adapted(X)
    assert not torch.equal(after, base(X))
    with ll.disabled(adapted):
        assert torch.equal(adapted(X), base(X))
    again = copy.deepcopy(base)
    ll.load(again, ll.save(adapter, tmp_path / "a"))
    assert torch.equal(again(X), after)
    ll.merge(adapted)
    torch.testing.assert_close(adapted(X), after)
    ll.unmerge(adapted)
    ll.detach(adapted)
    assert all(torch.equal(a, b) for a, b in zip(adapted.buffers(), base.buffers(), strict=True))


@pytest.mark.parametrize("name", [*FROZEN, *OWN])
def test_statistics_are_stored_where_the_module_trains(name: str) -> None:
    names = {name for name, _ in ll.attach(model(), (FROZEN | OWN)[name]()).named_tensors()}
    assert names & STATISTICS == (STATISTICS if name in OWN else set())


def test_full_fine_tuning_is_training_the_model_itself() -> None:
    base = model()
    adapted, _ = trained(base, ll.FullFineTune())
    optimizer = torch.optim.SGD(base.train().parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        base(X).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(adapted(X), base.eval()(X))


@pytest.mark.parametrize("change", [copy.deepcopy, lambda m: m.double(), lambda m: m.to("cpu", torch.bfloat16)])
def test_a_copied_or_converted_model_holds_them_too(change: Callable[[nn.Module], nn.Module]) -> None:
    made = model()
    ll.attach(made, ll.LoRA(rank=2, targets=["0"]))
    made = change(made).train()
    before = [buffer.clone() for buffer in made.buffers()]
    made(X.to(next(made.parameters()).dtype))
    assert all(torch.equal(a, b) for a, b in zip(made.buffers(), before, strict=True))
    assert all(module.training for module in made.modules())


def test_without_an_adapter_they_run_again() -> None:
    made = model()
    ll.attach(made, ll.LoRA(rank=2, targets=["0"]))
    ll.detach(made)
    made.train()(X)
    assert int(made.get_buffer("1.num_batches_tracked")) == 1


def test_statistics_without_parameters_are_trained_in_full_too() -> None:
    made = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, affine=False))
    adapter = ll.attach(made, ll.FullFineTune())
    made.train()(X)
    tensors = dict(adapter.named_tensors())
    assert int(tensors["1.num_batches_tracked"]) == 1
    assert int(made.get_buffer("1.base.num_batches_tracked")) == 0


def test_peft_reads_ours_and_we_read_theirs(tmp_path: Path) -> None:
    base = model().eval()
    adapted, adapter = trained(base, OWN["saved in full"]())
    ll.save(adapter, tmp_path / "ours")
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "ours")).eval()
    torch.testing.assert_close(theirs(X), adapted(X))

    theirs = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, target_modules=["0"], modules_to_save=["1"])).train()
    theirs(X)
    theirs.eval().save_pretrained(str(tmp_path / "theirs"))
    ours = copy.deepcopy(base)
    ll.load(ours, tmp_path / "theirs")
    torch.testing.assert_close(ours(X), theirs(X))


def test_gradients_do_not_reach_them() -> None:
    _, adapter = trained(model(), OWN["saved in full"]())
    assert not {name for name, _ in adapter.named_parameters()} & STATISTICS
    tensors: dict[str, Tensor] = dict(adapter.named_tensors())
    assert not tensors["1.running_mean"].requires_grad
