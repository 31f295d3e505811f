"""Schedule, optimizer, accumulation, data, journal: each by itself."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import loralab as ll
from loralab.machine import peak_memory_bytes
from loralab.training.folder import RunFolder
from loralab.training.log.curves import draw_curves
from loralab.training.log.journal import Journal, read_journal
from loralab.training.loop import clip_gradients
from loralab.training.optimizer import make_optimizer, rate_factor, set_rate, warmup_steps
from loralab.training.prepare import prepare

Configure = Callable[..., ll.TrainConfig]


@given(total=st.integers(1, 300), warmup=st.floats(0, 400), shape=st.sampled_from(["linear", "cosine", "constant"]))
def test_the_rate_rises_to_one_and_falls_and_is_never_zero(total: int, warmup: float, shape: str) -> None:
    steps = warmup_steps(warmup, total)
    factors = [rate_factor(step, total, steps, shape) for step in range(1, total + 1)]
    assert 0 < min(factors) <= max(factors) == 1.0 == factors[steps]
    assert factors[: steps + 1] == sorted(factors[: steps + 1])
    assert factors[steps:] == sorted(factors[steps:], reverse=True)


def test_a_linear_schedule_in_figures() -> None:
    assert [rate_factor(step, 5, 1, "linear") for step in range(1, 6)] == [0.5, 1.0, 0.75, 0.5, 0.25]


def test_groups_for_B_and_for_biases(configured: Configure) -> None:
    config = configured(lr=0.1, lora_plus_ratio=16.0, weight_decay=0.01)
    names = ("q.lora_A", "q.lora_B", "classifier.weight", "classifier.bias")
    optimizer = make_optimizer([(name, torch.nn.Parameter(torch.ones(2))) for name in names], config)
    found = {n: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for n in g["names"]}
    assert found == dict(zip(names, [(0.1, 0.01), (1.6, 0.01), (0.1, 0.01), (0.1, 0.0)], strict=True))
    set_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.05, 0.8}


def test_accumulated_batches_are_one_big_batch(configured: Configure) -> None:
    gradients, losses = [], []
    for batch_size, accumulate in ((24, 1), (8, 3), (3, 8)):
        trainee = prepare(configured(batch_size=batch_size, accumulate=accumulate, limit=24), "float32").trainee
        losses.append(trainee.objective.backward(trainee.data.step(1)))
        gradients.append([parameter.grad for parameter in trainee.adapter.parameters()])
    for other_loss, others in zip(losses[1:], gradients[1:], strict=True):
        assert other_loss == pytest.approx(losses[0], rel=1e-5)
        torch.testing.assert_close(others, gradients[0], atol=1e-6, rtol=1e-4)


def test_the_loss_is_that_of_transformers_on_the_targets(configured: Configure) -> None:
    prepared = prepare(configured(batch_size=8), "float32")
    (batch,) = prepared.trainee.data.step(1).batches
    expected = prepared.loaded.model(input_ids=batch.input_ids, labels=batch.labels).loss.detach()
    assert prepared.trainee.objective.backward(prepared.trainee.data.step(1)) == pytest.approx(
        float(expected), rel=1e-5
    )


def test_clipping_bounds_the_norm_of_all_gradients_together(configured: Configure) -> None:
    trainee = prepare(configured(), "float32").trainee
    trainee.objective.backward(trainee.data.step(1))
    before = clip_gradients(trainee.adapter, 0.0)
    assert clip_gradients(trainee.adapter, before / 2) == pytest.approx(before)
    assert clip_gradients(trainee.adapter, 0.0) == pytest.approx(before / 2, rel=1e-4)


def test_an_epoch_sees_every_example_once_and_the_next_in_another_order(configured: Configure) -> None:
    data = prepare(configured(batch_size=5, accumulate=3), "float32").trainee.data
    epochs = [
        [i for step in range(first, first + data.steps_per_epoch) for batch in data.step(step).indices for i in batch]
        for first in (1, 1 + data.steps_per_epoch)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(48))
    assert epochs[0] != epochs[1]


def test_the_journal_forgets_what_a_resumed_run_will_do_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text(
        "".join(json.dumps({"step": s, "split": "train", "loss": 1.0}) + "\n" for s in (1, 2, 3)) + '{"step": 4, "sp'
    )
    journal = Journal(folder, after_step=2)
    journal.write({"step": 3, "split": "train", "loss": 0.5})
    journal.close()
    assert [(entry["step"], entry["loss"]) for entry in read_journal(folder.metrics)] == [(1, 1.0), (2, 1.0), (3, 0.5)]


def test_curves_are_drawn_with_and_without_evaluations(tmp_path: Path) -> None:
    steps = [{"step": s, "split": "train", "loss": 3 / s, "learning_rate": 1e-3} for s in range(1, 30)]
    for name, entries in (("both", [*steps, {"step": 29, "split": "validation", "loss": 0.2}]), ("none", [])):
        draw_curves(entries, tmp_path / f"{name}.png", "a run")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_configurations_differ_only_where_it_matters(configured: Configure) -> None:
    config = configured(layers=(0, 1))
    before = {**vars(config), "layers": [0, 1]}
    assert replace(config, steps=99, resume=True, save_every=7).differences(before) == []
    assert config.differences({**before, "rank": 4}) == ["rank was 4 and is 2"]


def test_the_peak_is_the_process_own_and_not_its_parents() -> None:
    """A child of a process that once held 400 MB more says less than its parent does."""
    held = torch.ones(100_000_000)
    assert float(held[-1]) == 1.0
    script = "import torch; from loralab.machine import peak_memory_bytes as peak; print(peak(torch.device('cpu')))"
    child = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    del held
    assert int(child.stdout) < peak_memory_bytes(torch.device("cpu")) - 100_000_000


def test_no_checkpoints_means_none(configured: Configure) -> None:
    config = configured(save_every=0, steps=2, eval_limit=0)
    ll.train(config)
    assert not list(RunFolder(Path(config.out)).checkpoints.glob("step-*"))
