"""A tuning on a Ray cluster of two workers: it comes to what it comes to here, also where one is killed or all of it is
stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import loralab as ll
from loralab.experiments.tuning.folder import TuneFolder, TuneState, record_judgement, take_judgements
from loralab.experiments.tuning.halving import longest_within, steps_and_looks
from loralab.extras import lacking
from tiny import write_llama, write_pairs

SETTINGS = {
    "task": "jsonl", "alpha": 32.0, "steps": 20, "halvings": 1, "lrs": "1e-3,3e-2", "seeds": (1, 2), "batch_size": 8,
    "eval_limit": 8, "dtype": "float32", "device": "cpu", "save_every": 3, "dropout": 0.2, "threads": 1, "rank": 2,
}  # fmt: skip


@pytest.fixture
def tuning(tmp_path: Path) -> Callable[..., ll.TuneConfig]:
    model, data = write_llama(tmp_path / "llama"), write_pairs(tmp_path / "pairs")
    fixed = SETTINGS | {"model": str(model), "data": str(data)}
    return lambda out, **changes: ll.TuneConfig(**fixed | {"out": str(tmp_path / out)} | changes)


def as_flags(config: ll.TuneConfig) -> list[str]:
    names = [*SETTINGS, "model", "data", "out", "cluster"]
    values = {name: getattr(config, name) for name in names}
    values["seeds"] = ",".join(map(str, config.seeds))
    return [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def kill_worker(out: Path, number: signal.Signals, killed: list[int]) -> None:
    """Kill the worker of the first trial that has written a checkpoint: its number is in the run's lock."""
    while not killed:
        for checkpoints in out.glob("trials/*/checkpoints"):
            lock = checkpoints.parent / ".loralab-lock"
            if any(checkpoints.glob("step-*")) and lock.exists() and (worker := lock.read_text().strip()):
                os.kill(int(worker), number)
                killed.append(int(worker))
                return
        time.sleep(0.02)


def workers() -> list[int]:
    """Processes that train trials."""
    every = psutil.process_iter(["pid", "cmdline"])
    return [each.info["pid"] for each in every if (each.info["cmdline"] or [""])[0].startswith("ray::_climb")]


def same(one: ll.TuneResult, other: ll.TuneResult) -> bool:
    told = [[(trial.name, trial.steps, trial.metrics, trial.stopped) for trial in each.trials] for each in (one, other)]
    return told[0] == told[1] and one.base == other.base and one.best["metrics"] == other.best["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_killed_changes_nothing(
    tuning: Callable[..., ll.TuneConfig], cluster: str, number: signal.Signals
) -> None:
    there, killed = tuning("there", cluster=cluster), list[int]()
    threading.Thread(target=kill_worker, args=(Path(there.out), number, killed), daemon=True).start()
    result = ll.tune(there)
    assert len(killed) == 1
    assert same(result, ll.tune(tuning("here")))
    assert result.peak_memory_bytes > 0
    assert not list((Path(there.out) / "judged").iterdir())
    assert same(ll.tune(tuning("there")), result)  # finished, and said again without the cluster


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_tuning_leaves_no_process_and_goes_on_without_the_cluster(
    tuning: Callable[..., ll.TuneConfig], cluster: str, number: signal.Signals
) -> None:
    there = tuning("there", cluster=cluster, steps=200)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "loralab", "tune", *as_flags(there)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
    while process.poll() is None and not list(Path(there.out).glob("trials/*/checkpoints/step-*3.safetensors")):
        time.sleep(0.02)
    assert workers()
    process.send_signal(number)
    said = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 128 + number, said
    assert "The same command goes on there" in said
    assert not workers()
    assert json.loads((Path(there.out) / "tune.json").read_text())["state"]["losses"] == {}  # it was in the middle
    assert same(ll.tune(tuning("there", steps=200)), ll.tune(tuning("here", steps=200)))


@pytest.mark.slow
def test_what_a_worker_refuses_is_the_error_it_is_here(tuning: Callable[..., ll.TuneConfig], cluster: str) -> None:
    with pytest.raises(ll.SpecError, match="rank 999"):
        ll.tune(tuning("there", cluster=cluster, ranks=(2, 999)))
    assert not Path(tuning("there").out).exists()


@pytest.mark.skipif(not lacking("cluster"), reason="Ray is installed")
def test_without_ray_the_extra_is_named(tuning: Callable[..., ll.TuneConfig]) -> None:
    with pytest.raises(ll.LoralabError, match=r"--cluster auto needs ray.*loralab\[cluster\]"):
        ll.tune(tuning("there", cluster="auto"))


def test_what_workers_wrote_down_is_taken_once(tmp_path: Path) -> None:
    folder, recorded = TuneFolder(tmp_path), list[bool]()
    worker = TuneState(20, {}, [], losses={"a": {"10": 1.5}}, metrics={"a": {"loss": 1.5}}, reached={"a": 10})
    record_judgement(folder, worker, "a")
    record_judgement(folder, TuneState(20, {}, [], stopped={"b": "failed: nan"}), "b")
    state = TuneState(20, {}, [], reached={"b": 5})
    take_judgements(folder, state, ["a", "b", "c"])
    assert (state.losses, state.reached) == ({"a": {"10": 1.5}}, {"a": 10, "b": 5})
    assert state.stopped == {"b": "failed: nan"}
    take_judgements(folder, state, ["a"], lambda: recorded.append((folder.judged / "a.json").exists()))
    assert recorded == [True]
    assert [each.name for each in folder.judged.iterdir()] == ["b.json"]


def test_a_budget_is_of_the_worker_with_the_most_trials() -> None:
    halves = {"total": 20, "settings": 4, "halvings": 1}
    assert steps_and_looks(**halves) == (4 * 10 + 2 * 10, 4 + 2)
    assert steps_and_looks(**halves, share=lambda settings: settings / 2) == (2 * 10 + 1 * 10, 2 + 1)
    assert longest_within(60, 1.0, 0.0, 4, 1, share=lambda settings: settings / 2) == 2 * longest_within(
        60, 1.0, 0.0, 4, 1
    )
