"""A tuning from its settings to the best adapter: what it leaves, what it refuses, and that it can be interrupted."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import loralab as ll
from loralab.cli.main import main
from tiny import write_bert, write_labels, write_llama, write_pairs

Configure = Callable[..., ll.TuneConfig]


@pytest.fixture
def tuning(tmp_path: Path) -> Configure:
    model, data = write_llama(tmp_path / "llama"), write_pairs(tmp_path / "pairs")

    def configure(out: str = "tuned", **changes: Any) -> ll.TuneConfig:
        defaults = {
            "model": str(model), "task": "jsonl", "data": str(data), "out": str(tmp_path / out), "alpha": 32.0,
            "steps": 20, "halvings": 1, "ranks": (2,), "lrs": "1e-3,3e-2", "seeds": (1,), "batch_size": 8,
            "eval_limit": 8, "dtype": "float32", "device": "cpu",
        }  # fmt: skip
        return ll.TuneConfig(**defaults | changes)

    return configure


def losses(folder: Path | str) -> list[float]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if entry["split"] == "train"]


def test_the_best_is_a_run_that_its_command_makes_again(tuning: Configure) -> None:
    config = tuning(target_sets="q,v;all-linear", seeds=(1, 2), dropout=0.1)
    result = ll.tune(config)
    out, best = Path(config.out), Path(result.best["adapter"])
    assert len(result.trials) == 8
    assert {trial.steps for trial in result.trials} == {10, 20}
    assert sum(trial.stopped is None for trial in result.trials) == 4
    assert result.rungs == (10, 20)
    lowest = min(row.losses["20"] for row in result.rows if "20" in row.losses)
    assert result.rows[0].losses["20"] == lowest
    assert result.best["metrics"]["loss"] < result.base["loss"]
    assert "Measured on 8 examples only: such figures are loose" in result.advice[-1]
    assert json.loads((best / "run.json").read_text())["config"]["out"] == str(best)
    assert {"results.json", "table.md", "rates.png", "rungs.png"} <= {path.name for path in out.iterdir()}
    assert main(shlex.split(result.command)[1:]) == 0
    torch.testing.assert_close(losses(out / "again"), losses(best), rtol=0, atol=1e-5)
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (best, out / "again"))
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_what_is_finished_is_said_again_without_training(tuning: Configure) -> None:
    config = tuning()
    first = ll.tune(config)
    written = {path: path.stat().st_mtime_ns for path in Path(config.out).glob("trials/*/metrics.jsonl")}
    again = ll.tune(config)
    assert again.trials == first.trials
    assert {path: path.stat().st_mtime_ns for path in written} == written
    with pytest.raises(ll.SpecError, match=r"holds another tuning: lrs was '1e-3,3e-2' and is '1e-3'"):
        ll.tune(replace(config, lrs="1e-3"))
    assert ll.tune(replace(config, lrs="1e-3", overwrite=True)).best["lr"] == 1e-3


@pytest.mark.parametrize("number", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGINT])
def test_an_interrupted_tuning_goes_on_where_it_was(tuning: Configure, number: signal.Signals) -> None:
    whole, broken = tuning("whole", dropout=0.2, save_every=5), tuning("broken", dropout=0.2, save_every=5)
    expected = ll.tune(whole)
    flags = [
        "--model", broken.model, "--task", "jsonl", "--data", str(broken.data), "--out", broken.out, "--alpha", "32",
        "--steps", "20", "--halvings", "1", "--ranks", "2", "--lrs", "1e-3,3e-2", "--seeds", "1", "--batch-size", "8",
        "--eval-limit", "8", "--dtype", "float32", "--device", "cpu", "--dropout", "0.2", "--save-every", "5",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "loralab", "tune", *flags], stderr=subprocess.PIPE, env=environment
    )
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(Path(broken.out).glob("trials/*/checkpoints/step-00000005.safetensors"))) == 2:
            process.send_signal(number)
            break
        time.sleep(0.005)
    said = process.communicate(timeout=300)[1].decode()
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), said
    assert not (Path(broken.out) / "results.json").exists()
    result = ll.tune(broken)
    for one, other in zip(expected.trials, result.trials, strict=True):
        assert one.metrics == other.metrics
        assert losses(one.adapter) == losses(other.adapter)


def test_a_rate_that_diverges_is_named_and_the_others_are_judged(tuning: Configure) -> None:
    result = ll.tune(tuning(lrs="1e-2,1e25", schedule="constant", warmup=0.0, clip=0.0))
    wild = next(trial for trial in result.trials if trial.lr == 1e25)
    assert wild.stopped is not None
    assert wild.stopped.startswith("failed: ")
    assert result.best["lr"] == 1e-2
    with pytest.raises(ll.TrainingError, match=r"none of the 1 trials came to an end.*lower lrs"):
        ll.tune(tuning("wild", lrs="1e25", schedule="constant", warmup=0.0, clip=0.0))


def test_what_cannot_be_is_said_before_anything_is_written(tuning: Configure) -> None:
    refused = {
        r"ranks none.*lrs none.*target_sets none.*seeds none": {
            "ranks": (),
            "lrs": ",",
            "target_sets": ";",
            "seeds": (),
        },
        r"ranks 4, 4: give at least one, each once; lrs 0.001, 0.001": {"ranks": (4, 4), "lrs": "1e-3,0.001"},
        r"lrs: 'fast' is no learning rate": {"lrs": "fast"},
        r"method full has no rank": {"method": "full"},
        r"rank 999 on q,v": {"ranks": (2, 999), "target_sets": "q,v"},
        r"on nowhere: .*nowhere": {"target_sets": "q,v;nowhere"},
        r"q,v and v_proj,q_proj name the same modules": {"target_sets": "q,v;v_proj,q_proj"},
        r"2 settings with 1 halvings need at least 20 steps.*there are 19": {"steps": 19},
        r"too small for one rung of 2 settings.*minutes would do": {"steps": None, "budget_minutes": 1e-4},
        r"judged by held-out data": {"eval_limit": 0},
        r"drawn by the seed": {"validation_share": 0.2, "seeds": (1, 2)},
    }
    for message, changes in refused.items():
        with pytest.raises(ll.SpecError, match=message):
            ll.tune(tuning(**changes))
    assert not Path(tuning().out).exists()
    Path(tuning().out).mkdir()
    (Path(tuning().out) / "mine.txt").write_text("kept")
    with pytest.raises(ll.OutputError, match="holds no tuning"):
        ll.tune(tuning())
    with pytest.raises(ll.OutputError, match="holds no tuning"):
        ll.tune(tuning(overwrite=True))
    assert (Path(tuning().out) / "mine.txt").read_text() == "kept"


def test_a_budget_becomes_steps_by_measuring_the_first(tuning: Configure) -> None:
    result = ll.tune(tuning(steps=None, budget_minutes=600.0, limit=24))
    assert result.steps == 20  # three epochs of three batches are too few for two rungs
    assert any("a step takes" in note for note in result.notes)


def test_a_classifier_whose_data_hold_nothing_out_gives_up_a_part_of_the_training(tmp_path: Path) -> None:
    data = tmp_path / "labels"
    write_labels(data)
    for split in ("validation", "test"):
        (data / f"{split}.jsonl").unlink(missing_ok=True)
    config = ll.TuneConfig(
        model=str(write_bert(tmp_path / "bert")), task="jsonl", data=str(data), out=str(tmp_path / "out"), steps=20,
        halvings=1, ranks=(2,), lrs="1e-3,1e-2", seeds=(1, 2), batch_size=8, dtype="float32", device="cpu",
    )  # fmt: skip
    result = ll.tune(config)
    assert any("held out" in note for note in result.notes)
    assert "accuracy" in result.best["metrics"]
