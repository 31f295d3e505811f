"""N + N steps are 2N steps, bit for bit, whatever interrupted them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loralab as ll
from loralab.training.checkpoint import newest_checkpoint

Configure = Callable[..., ll.TrainConfig]


def adapter_of(config: ll.TrainConfig) -> dict[str, torch.Tensor]:
    return load_file(Path(config.out) / "adapter_model.safetensors")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def losses_of(config: ll.TrainConfig) -> list[tuple[int, float]]:
    lines = (Path(config.out) / "metrics.jsonl").read_text().splitlines()
    return [(entry["step"], entry["loss"]) for entry in map(json.loads, lines) if entry["split"] == "train"]


@pytest.mark.parametrize("extras", [{}, {"dropout": 0.2, "accumulate": 2, "clip": 0.5, "weight_decay": 0.1}])
def test_n_and_n_steps_are_2n_steps(configured: Configure, extras: dict[str, float]) -> None:
    fixed = {"schedule": "constant", "warmup": 2.0, **extras}
    whole, halves = configured("whole", steps=8, **fixed), configured("halves", steps=4, **fixed)
    ll.train(whole)
    ll.train(halves)
    result = ll.train(replace(halves, steps=8, resume=True))
    assert equal(adapter_of(whole), adapter_of(halves))
    assert losses_of(whole) == losses_of(halves)
    assert (result.steps, [step for step, _ in losses_of(halves)]) == (8, list(range(1, 9)))
    first, second = (newest_checkpoint(Path(c.out) / "checkpoints").tensors for c in (whole, halves))
    assert equal(first, second)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(configured: Configure) -> None:
    whole, killed = (configured(name, steps=60, save_every=1, eval_limit=0) for name in ("whole", "killed"))
    ll.train(whole)
    kill_while_saving(killed)
    assert not (Path(killed.out) / "adapter_model.safetensors").exists()
    ll.train(replace(killed, resume=True))
    assert equal(adapter_of(whole), adapter_of(killed))
    assert losses_of(whole) == losses_of(killed)


def kill_while_saving(config: ll.TrainConfig) -> None:
    """Start the run in a process of its own and end it with SIGKILL as soon as a checkpoint is being written."""
    program = f"import loralab as ll; ll.train(ll.TrainConfig(**{asdict(config)!r}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL, env=environment)
    folder, deadline = Path(config.out) / "checkpoints", time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if len(list(folder.glob("step-*"))) and any(not path.name.startswith("step-") for path in folder.glob("*")):
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_run_killed_before_its_first_checkpoint_starts_again(configured: Configure) -> None:
    config = configured(steps=3)
    ll.train(config)
    shutil.rmtree(Path(config.out) / "checkpoints")
    first = adapter_of(config)
    ll.train(replace(config, resume=True))
    assert equal(adapter_of(config), first)


def test_only_the_newest_checkpoints_are_kept(configured: Configure) -> None:
    config = configured(steps=6, save_every=1, keep=2)
    ll.train(config)
    names = sorted(path.name for path in (Path(config.out) / "checkpoints").glob("*.safetensors"))
    assert names == ["step-00000005.safetensors", "step-00000006.safetensors"]


def test_what_cannot_be_resumed_is_said(configured: Configure) -> None:
    config = configured(steps=3)
    with pytest.raises(ll.NotFoundError, match="holds no run"):
        ll.train(replace(config, resume=True))
    ll.train(config)
    with pytest.raises(ll.SpecError, match=r"rank was 2 and is 3; lr was 0\.03 and is 0\.1"):
        ll.train(replace(config, resume=True, rank=3, lr=0.1))
    with pytest.raises(ll.SpecError, match="made 3 steps already"):
        ll.train(replace(config, resume=True, steps=2))
    newest = Path(config.out) / "checkpoints" / "step-00000003.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.raises(ll.TrainingError, match="cannot be read"):
        ll.train(replace(config, resume=True, steps=5))
