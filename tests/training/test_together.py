"""Several runs on one base: each is the run that `train` makes of its configuration."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loralab as ll
from loralab.training.base import made_fast
from loralab.training.interrupt import interruptible
from loralab.training.together.passes import MEASURED_STEPS, PassTimes, gradient_distance
from loralab.training.together.side_by_side import Member, SideBySide
from loralab.training.together.train import ground_of

Configure = Callable[..., ll.TrainConfig]


def losses(config: ll.TrainConfig) -> list[float]:
    lines = (Path(config.out) / "metrics.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines)]


def alone(config: ll.TrainConfig) -> ll.TrainConfig:
    """The same run by itself, in a folder beside."""
    single = replace(config, out=f"{config.out}-alone")
    ll.train(single)
    return single


def assert_same(config: ll.TrainConfig, single: ll.TrainConfig) -> None:
    torch.testing.assert_close(losses(config), losses(single), rtol=0, atol=1e-5)
    first, second = (load_file(Path(each.out) / "adapter_model.safetensors") for each in (config, single))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-5)


def test_each_run_is_the_run_that_it_is_alone(configured: Configure) -> None:
    shared = {"steps": 50, "lr": 1e-2, "save_every": 0, "samples": 0}
    configs = [
        configured("a", **shared),
        configured("b", **shared, rank=5, seed=3, dropout=0.3),
        configured("c", **shared, targets="all-linear", alpha=4.0, schedule="cosine", batch_size=4, accumulate=2),
        configured("d", **shared | {"steps": 12, "lr": 3e-2}, targets="v_proj", seed=3, dropout=0.1),
    ]
    results = ll.train_together(configs)
    for config, result in zip(configs, results, strict=True):
        assert isinstance(result, ll.TrainResult)
        assert result.steps == config.steps
        assert_same(config, alone(config))


def test_classifiers_have_the_head_that_each_seed_draws(classifying: Configure) -> None:
    fixed = {"epochs": None, "steps": 6, "save_every": 0, "samples": 0}
    configs = [
        replace(classifying(**fixed, seed=seed, dropout=0.2), out=f"{classifying().out}-{seed}") for seed in (1, 2)
    ]
    ll.train_together(configs)
    for config in configs:
        assert_same(config, alone(config))
    assert losses(configs[0])[0] != losses(configs[1])[0]


def test_one_that_diverges_is_named_and_left_and_the_others_go_on_untouched(configured: Configure) -> None:
    wild = configured("wild", lr=1e20, alpha=1e30, schedule="constant", warmup=0.0, steps=20, dropout=0.1)
    tame = configured("tame", steps=8, dropout=0.2, save_every=0)
    failure, result = ll.train_together([wild, tame])
    assert isinstance(failure, ll.TrainingError)
    assert "step" in str(failure)
    assert isinstance(result, ll.TrainResult)
    assert_same(tame, alone(tame))


@pytest.mark.parametrize("method", ["dora", "full", "adamix", "prefix-embed"])
def test_runs_of_any_method_share_a_base(configured: Configure, method: str) -> None:
    fixed = {"steps": 3, "save_every": 0, "samples": 0, "lr": 1e-3}
    first = configured("first", **fixed, method=method)
    second = configured("second", **fixed, seed=5)
    ll.train_together([first, second])
    for config in (first, second):
        assert_same(config, alone(config))


def test_what_they_cannot_differ_in_is_said_at_once(configured: Configure) -> None:
    first = configured("same")
    with pytest.raises(ll.SpecError, match=r"max_length is 512, 64.*out .*same: two runs"):
        ll.train_together([first, replace(first, max_length=64, seed=2)])
    with pytest.raises(ll.SpecError, match="drawn by the seed"):
        ll.train_together([configured(str(seed), seed=seed, validation_share=0.2) for seed in (1, 2)])
    with pytest.raises(ll.SpecError, match="no runs"):
        ll.train_together([])
    assert not Path(first.out).exists()


def test_they_go_on_from_where_each_of_them_was(configured: Configure) -> None:
    whole = [configured(f"whole-{n}", steps=8, seed=n, dropout=0.2, schedule="constant") for n in (1, 2)]
    halves = [replace(each, out=f"{each.out}-half", steps=3 + number) for number, each in enumerate(whole)]
    ll.train_together(whole)
    ll.train_together(halves)
    ll.train_together([replace(each, steps=8, resume=True) for each in halves])
    for one, other in zip(whole, halves, strict=True):
        first, second = (load_file(Path(each.out) / "adapter_model.safetensors") for each in (one, other))
        assert all(torch.equal(first[name], second[name]) for name in first)


# -- rows of one batch ------------------------------------------------------------------------------------------------

Q_AND_V = "q_proj,v_proj"
"""Without the output head, which sees the targets of all rows one after another."""


@pytest.fixture
def joined() -> Callable[[list[ll.TrainConfig]], list[Member]]:
    """Train these with every step as one batch, as if that had been measured to be faster."""

    def train(configs: list[ll.TrainConfig]) -> list[Member]:
        ground = ground_of(configs)
        with interruptible() as interruption:
            together = SideBySide(ground, interruption, print)
            for runs in range(2, len(configs) + 1):
                together.passes.times[runs] = PassTimes(MEASURED_STEPS + 1, in_turn=2.0, joined=1.0)
            for number, config in enumerate(configs):
                together.add(config, f"run-{number}")
            with made_fast(ground.draft.loaded) as kernels:
                together.begin()
                together.advance()
                for member in together.running:
                    together.finish(member, kernels)
            together.close()
        return together.members

    return train


def test_rows_of_one_batch_are_the_runs_that_they_are_alone(
    configured: Configure, joined: Callable[[list[ll.TrainConfig]], list[Member]]
) -> None:
    shared = {"steps": 50, "lr": 1e-2, "save_every": 0, "samples": 0, "batch_size": 2, "targets": Q_AND_V}
    configs = [
        configured("a", **shared),
        configured("b", **shared, rank=5, seed=3),
        configured("c", **shared | {"batch_size": 3, "targets": "all-linear"}, alpha=4.0, schedule="cosine"),
        configured("d", **shared | {"steps": 12, "lr": 3e-2, "targets": "v_proj"}, seed=3),
    ]
    members = joined(configs)
    for config, member in zip(configs, members, strict=True):
        assert member.result is not None
        assert member.result.steps == config.steps
        assert_same(config, alone(config))


def test_one_of_one_batch_that_diverges_leaves_the_others_untouched(
    configured: Configure, joined: Callable[[list[ll.TrainConfig]], list[Member]]
) -> None:
    wild = configured("wild", lr=1e20, alpha=1e30, schedule="constant", warmup=0.0, steps=20, targets=Q_AND_V)
    tame = [configured(f"tame-{seed}", steps=8, seed=seed, save_every=0, targets=Q_AND_V) for seed in (1, 2)]
    first, *others = joined([wild, *tame])
    assert isinstance(first.failure, ll.TrainingError)
    for config, member in zip(tame, others, strict=True):
        assert member.result is not None
        assert_same(config, alone(config))


def test_how_steps_are_computed_is_measured_and_said(configured: Configure, capfd: pytest.CaptureFixture[str]) -> None:
    fixed = {"steps": 5, "save_every": 0, "samples": 0, "eval_limit": 0, "targets": Q_AND_V}
    configs = [configured(f"m-{seed}", **fixed, seed=seed) for seed in (1, 2)]
    ll.train_together(configs)
    assert "measured on 3 steps" in " ".join(capfd.readouterr().err.split())
    for config in configs:
        assert_same(config, alone(config))
    ll.train_together([configured(f"d-{seed}", **fixed, seed=seed, dropout=0.1) for seed in (1, 2)])
    assert "take turns, for random numbers are drawn" in " ".join(capfd.readouterr().err.split())
    ll.train_together([configured(f"h-{seed}", **fixed | {"targets": "q,lm_head"}, seed=seed) for seed in (1, 2)])
    assert "take turns, for rows() named 16 sequences" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_gradients_that_are_no_numbers_as_one_batch_are_far_from_those_in_turn(number: float) -> None:
    fine, broken = [torch.ones(2), None], [torch.tensor([1.0, number]), None]
    assert gradient_distance(fine, fine) == 0
    assert gradient_distance(fine, broken) == math.inf
    assert gradient_distance(broken, broken) == 0  # a run that has diverged both ways is stopped as it would be alone
