"""A part of every block in each of two real processes."""

from pathlib import Path

import pytest
from torch import nn

import loralab as ll
from launched import shard_a_toy, take_turns
from loralab.models.families.blocks import blocks_of
from loralab.processes.group import ALONE
from loralab.processes.launch import run_in_processes
from loralab.training.config import TrainConfig
from loralab.training.several.sharding import check_sharded
from small_models import llama

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
    [({}, "give --processes"), ({"method": "full"}, "method full"), ({"quantize": "nf4"}, "packed weights"),
     ({"preference": "dpo"}, "choose orpo")],
)  # fmt: skip
def test_what_does_not_go_with_it(changes: dict[str, str], said: str) -> None:
    with pytest.raises(ll.SpecError, match=said):
        check_sharded(TrainConfig(**SHARDED | changes), ALONE)
