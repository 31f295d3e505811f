"""Models inside DistributedDataParallel: one process, gloo."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import loralab as ll
from toys import give_effect, quiet


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_names_inside_ddp_are_the_plain_ones_and_gradients_arrive(one_process: None, tmp_path: Path) -> None:
    inner, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(2, 6)
    adapter = ll.attach(inner, ll.LoRA(rank=2, targets="0"), name="sql")
    give_effect(adapter)
    model = DistributedDataParallel(inner)
    assert [name for name, _ in adapter.named_parameters()] == ["0.lora_A", "0.lora_B"]
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters())
    live = quiet(model, x)
    ll.save(adapter, tmp_path / "sql")
    ll.detach(model)
    ll.load(model, tmp_path / "sql")
    torch.testing.assert_close(quiet(model, x), live)


def test_attaching_inside_ddp_says_that_it_must_be_wrapped_again(one_process: None) -> None:
    model = DistributedDataParallel(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)))
    adapter = ll.attach(model, ll.LoRA(rank=2, targets="0"))
    assert adapter.matched == ["0"]
    assert any("wrap the model again" in note for note in adapter.notes)
