"""Cells on a Ray cluster of two workers, of which one is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import loralab as ll
from loralab.experiments.comparison.compare import compare
from loralab.experiments.comparison.config import CompareConfig
from loralab.extras import lacking
from tiny import write_llama, write_pairs


def of_two_seeds(place: Path, **changes: object) -> CompareConfig:
    model, data = write_llama(place / "llama"), write_pairs(place / "pairs")
    settings = {
        "model": str(model), "data": str(data), "task": "jsonl", "out": str(place / "compared"), "methods": ("lora",),
        "rank": 2, "seeds": (1, 2, 3), "steps": 40, "batch_size": 8, "eval_limit": 8, "dtype": "float32",
        "device": "cpu", "save_every": 5, "board": (), "threads": 1,
    }  # fmt: skip
    return CompareConfig(**settings | changes)


def kill_first_worker(out: Path, killed: list[int]) -> None:
    """Kill the worker, a parent of the first training that is seen to have written a checkpoint."""
    while not killed:
        for lock in out.glob("locks/*/lock"):
            training = lock.read_text().strip()
            if training and any(out.glob(f"cells/{lock.parent.name}/checkpoints/*")):
                worker = int(Path(f"/proc/{training}/stat").read_text().rsplit(")", 1)[1].split()[1])
                os.kill(worker, signal.SIGKILL)
                killed.append(worker)
                return
        time.sleep(0.05)


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_cell(tmp_path: Path, cluster: str) -> None:
    config, killed = of_two_seeds(tmp_path, cluster=cluster), list[int]()
    watcher = threading.Thread(target=kill_first_worker, args=(Path(config.out), killed), daemon=True)
    watcher.start()
    there = compare(config)
    assert len(killed) == 1
    assert [row.seeds for row in there.rows] == [(1, 2, 3)]
    assert not there.rows[0].failed
    here = compare(of_two_seeds(tmp_path / "alone"))
    assert there.rows[0].metrics == here.rows[0].metrics


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_comparison_stops_every_training_in_the_middle(
    tmp_path: Path, cluster: str, number: signal.Signals
) -> None:
    config = of_two_seeds(tmp_path, cluster=cluster, steps=2000)
    flags = {name: getattr(config, name) for name in ("model", "data", "task", "out", "cluster", "steps", "save_every")}
    command = [sys.executable, "-m", "loralab", "compare", "--methods", "lora", "--threads", "1"]
    command += [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
    while process.poll() is None and not list(Path(config.out).glob("cells/*/checkpoints/*")):
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 128 + number, said
    steps = [each.stem for each in Path(config.out).glob("cells/*/checkpoints/step-*.safetensors")]
    assert steps
    assert max(steps) < "step-00002000"


@pytest.mark.skipif(not lacking("cluster"), reason="Ray is installed")
def test_without_ray_the_extra_is_named(tmp_path: Path) -> None:
    with pytest.raises(ll.LoralabError, match=r"--cluster auto needs ray.*loralab\[cluster\]"):
        compare(of_two_seeds(tmp_path, cluster="auto"))


def test_one_cell_is_not_for_a_cluster(tmp_path: Path) -> None:
    with pytest.raises(ll.SpecError, match="cell 0 and cluster"):
        of_two_seeds(tmp_path, cluster="auto", cell=0).validate()
