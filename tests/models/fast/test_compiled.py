"""Blocks that are compiled where they train: the same losses, few shapes, and a plain word where nothing compiles."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from torch import nn
from torch._dynamo.utils import counters

import loralab as ll
from loralab.models.families.blocks import blocks_of
from loralab.models.fast.compiled import compiled_blocks
from loralab.models.load import load_model
from loralab.training.base import made_fast
from tiny import write_llama, write_pairs


def losses(out: str) -> list[float]:
    lines = (Path(out) / "metrics.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if entry["split"] == "train"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "graphs"),
    [
        ({}, 9),
        ({"method": "dora"}, 40),  # a break at every norm
        ({"method": "full"}, 9),
        ({"attention": "eager", "method": "adapter-p"}, 40),
    ],
    ids=["lora", "dora", "full", "eager-adapter"],
)
def test_a_compiled_run_has_the_losses_of_a_plain_one(tmp_path: Path, changes: dict[str, Any], graphs: int) -> None:
    model, data = write_llama(tmp_path / "llama", num_hidden_layers=4), write_pairs(tmp_path / "pairs")
    settings = {
        "model": str(model), "task": "jsonl", "data": str(data), "rank": 2, "steps": 12, "batch_size": 4,
        "eval_limit": 4, "eval_every": 6, "lr": 1e-2, "dtype": "float32", "device": "cpu", "board": (),
    }  # fmt: skip
    plain, compiled = (str(tmp_path / name) for name in ("plain", "compiled"))
    ll.train(ll.TrainConfig(**settings | changes | {"out": plain}))
    counters.clear()
    ll.train(ll.TrainConfig(**settings | changes | {"out": compiled, "compile": True}))
    assert counters["stats"]["unique_graphs"] >= 2  # the compiler's trial, and the blocks
    assert counters["stats"]["unique_graphs"] <= graphs  # of batches of 12 lengths
    torch.testing.assert_close(torch.tensor(losses(compiled)), torch.tensor(losses(plain)), rtol=0, atol=1e-4)
    assert losses(plain)[-1] != losses(plain)[0]


def test_without_a_compiler_nothing_is_compiled_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(str(write_llama(tmp_path / "llama")), dtype="float32", device="cpu")
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with torch._inductor.config.patch({"cpp.cxx": ("/nowhere/c++",)}), made_fast(loaded, compiled=True) as said:
        assert "compile: nothing is compiled, for no compiler works here" in said[0]
        assert not any("forward" in vars(block) for block in blocks_of(loaded.model))
    with made_fast(loaded) as usual:
        assert [each[:20] for each in said[1:]] == [each[:20] for each in usual]  # our own kernels are there


def test_a_model_whose_blocks_are_not_known_is_refused() -> None:
    with (
        pytest.raises(ll.SpecError, match=r"compile: the blocks of Linear are not known.*leave compile out"),
        compiled_blocks(nn.Linear(2, 2)),
    ):
        pass


@pytest.mark.parametrize("beside", [{"shard": True}, {"gradient_checkpointing": True}, {"quantize": "nf4"}])
def test_what_the_compiler_does_not_follow_is_refused(beside: dict[str, Any]) -> None:
    with pytest.raises(ll.SpecError, match=f"compile and {next(iter(beside))}: .*give one of them"):
        ll.TrainConfig(model="m", task="t", out="o", compile=True, **beside).validate()


def test_runs_side_by_side_are_not_compiled() -> None:
    runs = [ll.TrainConfig(model="m", task="t", out=out, compile=True) for out in ("a", "b")]
    with pytest.raises(ll.SpecError, match="compile: a compiled block is one run's"):
        ll.train_together(runs)
