"""Cells on a Ray cluster of two workers, of which one is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import loralab as ll
from loralab.experiments.comparison.compare import compare
from loralab.experiments.comparison.config import CompareConfig
from loralab.extras import lacking
from tiny import write_llama, write_pairs

NO_RAY = "Ray is not installed (the extra [cluster]), and no cluster can be started"
needs_ray = pytest.mark.skipif(bool(lacking("cluster")), reason=NO_RAY)


def of_two_seeds(place: Path, **changes: object) -> CompareConfig:
    model, data = write_llama(place / "llama"), write_pairs(place / "pairs")
    settings = {
        "model": str(model), "data": str(data), "task": "jsonl", "out": str(place / "compared"), "methods": ("lora",),
        "rank": 2, "seeds": (1, 2, 3), "steps": 40, "batch_size": 8, "eval_limit": 8, "dtype": "float32",
        "device": "cpu", "save_every": 5, "board": (), "threads": 1,
    }  # fmt: skip
    return CompareConfig(**settings | changes)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a head with two processors, which run a cell each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    head = ["start", "--head", "--port", "6399", "--num-cpus", "2", "--include-dashboard", "false"]
    subprocess.run([*ray, *head, "--object-store-memory", "80000000"], check=True, capture_output=True)
    yield "127.0.0.1:6399"
    subprocess.run([*ray, "stop", "--force"], check=True, capture_output=True)


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


@needs_ray
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


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(ll.LoralabError, match="no Ray answers there"):
        compare(of_two_seeds(tmp_path, cluster="127.0.0.1:6398"))


@pytest.mark.skipif(not lacking("cluster"), reason="Ray is installed")
def test_without_ray_the_extra_is_named(tmp_path: Path) -> None:
    with pytest.raises(ll.LoralabError, match=r"--cluster auto needs ray.*loralab\[cluster\]"):
        compare(of_two_seeds(tmp_path, cluster="auto"))


def test_one_cell_is_not_for_a_cluster(tmp_path: Path) -> None:
    with pytest.raises(ll.SpecError, match="cell 0 and cluster"):
        of_two_seeds(tmp_path, cluster="auto", cell=0).validate()
