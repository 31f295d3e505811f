"""A part of every block in each of two real processes."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.distributed import DistributedConfig

import loralab as ll
from launched import load_in_parts, shard_a_toy, take_turns
from loralab.formats.quantized import quantize_base
from loralab.models.families.blocks import blocks_of
from loralab.models.load import load_model
from loralab.models.nf4 import quantized_layers
from loralab.processes.group import ALONE, Processes
from loralab.processes.launch import run_in_processes
from loralab.processes.sharding import Shards, shard_blocks, shards_of
from loralab.training.config import TrainConfig
from loralab.training.several.sharding import check_sharded
from small_models import llama
from tiny import write_llama

SHARDED = {"model": "m", "task": "t", "out": "o", "shard": True}


@pytest.mark.slow
def test_a_block_is_whole_only_while_it_is_computed() -> None:
    said = run_in_processes(2, shard_a_toy)
    assert said["same"]
    assert said["within"] == [8 * 8 + 8]
    assert said["held"] == [(8 * 8 + 8) // 2 + 8, (8 * 8 + 8) // 2]
    assert said["extra"] == "Parameter"
    assert "2 blocks are sharded over 2 processes" in str(said["sharded"])


@pytest.mark.slow
def test_turns_do_not_overlap(tmp_path: Path) -> None:
    assert run_in_processes(2, take_turns, tmp_path / "said") == ["0 begins", "0 ends", "1 begins", "1 ends"]


def test_the_blocks_of_a_model_and_of_one_that_has_none() -> None:
    model = llama()
    assert blocks_of(model) == list(model.model.layers)
    adapted = ll.attach(model, ll.LoRA(rank=2, targets=["q_proj"]))
    assert blocks_of(model) == list(model.model.layers)
    assert adapted.matched
    with pytest.raises(ll.SpecError, match="the blocks of Sequential are not known"):
        blocks_of(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "give --processes"),
        ({"method": "full"}, "method full"),
        ({"shard": 2}, "shard 2 and 1 processes: they cannot"),
    ],
)
def test_what_does_not_go_with_it(changes: dict[str, str], said: str) -> None:
    with pytest.raises(ll.SpecError, match=said):
        check_sharded(TrainConfig(**SHARDED | changes), ALONE)


# -- memory: nothing is whole in a process that holds a part -------------------------------------------------------


WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 6}


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A model's folder. Transformers lets the first of several processes write it alone."""
    return str(write_llama(tmp_path / "llama", **WIDE))


@pytest.fixture
def second_of_two(source: str) -> Iterator[Shards]:
    """The second process of two of which the other one is torch's pretence: it sends nothing."""
    store = importlib.import_module("torch.testing._internal.distributed.fake_pg").FakeStore()
    distributed.init_process_group("fake", rank=1, world_size=2, store=store)
    yield shards_of(Processes(index=1, count=2))
    distributed.destroy_process_group()


class Allocated(TorchDispatchMode):
    """The most bytes that tensors made within it held at once; what is mapped from a file is not made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {each.untyped_storage()._cdata for each in _tensors([args, kwargs or {}])}
        result = func(*args, **kwargs or {})
        for each in _tensors(result):
            storage = each.untyped_storage()
            if each.device.type != "meta" and storage._cdata not in given:
                self.made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.made = {key: held for key, held in self.made.items() if not held[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.made.values()))
        return result


def _tensors(tree: Any) -> list[Tensor]:
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
    return [leaf for leaf in leaves if not isinstance(leaf, DTensor)]


def is_mapped(tensor: Tensor) -> bool:
    """Whether it lies in the model's file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(each, 16) for each in line.split()[0].split("-"))
        if start <= tensor.data_ptr() < end:
            return line.endswith(".safetensors")
    return False


def bytes_of(model: nn.Module) -> tuple[int, int]:
    """Of the largest tensor in the blocks, and of all outside of them."""
    inside = {id(p): p for block in blocks_of(model) for p in block.parameters()}
    outside = (p for p in model.parameters() if id(p) not in inside)
    return max(p.nbytes for p in inside.values()), sum(p.nbytes for p in outside)


def test_a_mapped_model_is_read_part_by_part(source: str, second_of_two: Shards) -> None:
    loaded = load_model(source, dtype="bfloat16", device="cpu", as_stored=True)
    model, rounded = loaded.model, load_model(source, dtype="bfloat16", device="cpu").model
    assert all(map(is_mapped, model.parameters()))
    largest, outside = bytes_of(rounded)
    with Allocated() as seen:
        sharded = shard_blocks(model, blocks_of(model), [], second_of_two, loaded.dtype)
    assert sharded.sharded_bytes // 2 < seen.most <= sharded.sharded_bytes // 2 + outside + largest
    assert not any(is_mapped(p.to_local() if isinstance(p, DTensor) else p) for p in model.parameters())
    whole = dict(rounded.named_parameters())
    for name, parameter in model.named_parameters():
        due = whole[name].chunk(2)[1] if isinstance(parameter, DTensor) else whole[name]
        assert torch.equal(parameter.to_local() if isinstance(parameter, DTensor) else parameter, due), name


def test_a_model_is_packed_part_by_part(source: str, second_of_two: Shards) -> None:
    model, whole = (load_model(source, dtype="float32", device="cpu").model for _ in range(2))
    quantize_base(whole, "nf4")
    largest, outside = bytes_of(model)
    with Allocated() as seen:
        quantize_base(model, "nf4", part=second_of_two.part)
        sharded = shard_blocks(model, blocks_of(model), [], second_of_two)
    assert seen.most <= sharded.sharded_bytes // 2 + 2 * outside + 8 * largest
    for own, other in zip(quantized_layers(model), quantized_layers(whole), strict=True):
        codes = own.get_parameter("codes")
        assert isinstance(codes, DTensor)
        assert torch.equal(codes.to_local(), other.get_buffer("codes").chunk(2)[1])
        assert own.packed_bytes == other.packed_bytes


@pytest.mark.usefixtures("second_of_two")
def test_a_model_that_its_tp_plan_has_cut_is_refused(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    cut = DistributedConfig(tp_plan="auto")
    model = transformers.AutoModelForCausalLM.from_pretrained(source, distributed_config=cut)
    assert isinstance(model.model.layers[0].self_attn.q_proj.weight, DTensor)
    with pytest.raises(ll.AdapterStateError, match=r"cut the weights of this model over 2 processes.*--shard"):
        ll.attach(model, ll.LoRA(rank=2, targets=["q_proj"]))


@pytest.mark.slow
@pytest.mark.parametrize("how", [None, "nf4"])
def test_a_billion_weights_in_two_processes(tmp_path: Path, how: str | None) -> None:
    said = run_in_processes(2, load_in_parts, tmp_path / "llama", how)
    assert said["weights"] > 1e9
    assert said["peak"] < 0.75 * said["whole"], said
