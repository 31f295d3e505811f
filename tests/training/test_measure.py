"""The base measured before step 1, and samples: what is recorded, and that the run is none the wiser."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import loralab as ll
from loralab.models.load import load_model
from loralab.tasks.table import open_task
from loralab.training.log.samples import spread_evenly

Configure = Callable[..., ll.TrainConfig]


def _lines(config: ll.TrainConfig, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(config.out, name).read_text(encoding="utf-8").splitlines()]


def _losses(config: ll.TrainConfig) -> list[float]:
    return [entry["loss"] for entry in _lines(config, "metrics.jsonl") if entry["split"] == "train"]


@pytest.mark.parametrize("method", ["lora", "adamix", "prefix-embed", "galore"])
def test_measuring_and_asking_change_no_loss(configured: Configure, method: str) -> None:
    own = {"dropout": 0.1} if method == "lora" else {"rank": 8}
    shared = {"method": method, "steps": 4, **own}
    looking = configured("looking", eval_every=2, **shared)
    blind = configured("blind", eval_before=False, samples=0, eval_limit=0, **shared)
    ll.train(looking)
    ll.train(blind)
    assert _losses(looking) == _losses(blind)
    assert len(_losses(looking)) == 4


def test_before_is_the_score_of_the_base_alone(configured: Configure) -> None:
    config = configured(method="prefix-embed", steps=2)
    result = ll.train(config)
    loaded = load_model(config.model, dtype="float32", device="cpu")
    task = open_task("jsonl", config.data)
    base = ll.evaluate(loaded.model, loaded.tokenizer, task, "validation", limit=8, batch_size=8)
    assert result.before["loss"] == pytest.approx(base.loss, abs=1e-6)
    assert result.held_out is not None
    assert (result.held_out["split"], result.held_out["examples"]) == ("validation", 8)
    entry = _lines(config, "metrics.jsonl")[0]
    assert (entry["step"], entry["loss"]) == (0, result.before["loss"])
    assert json.loads(Path(config.out, "run.json").read_text())["result"]["before"] == result.before


def test_the_same_examples_are_answered_before_during_and_after(configured: Configure) -> None:
    config = configured(steps=4, eval_every=2)
    result = ll.train(config)
    samples = _lines(config, "samples.jsonl")
    assert [each["step"] for each in samples] == [0, 0, 0, 2, 2, 2, 4, 4, 4]
    prompts = [each["prompt"] for each in samples]
    assert prompts[:3] == prompts[3:6] == prompts[6:]
    assert len(set(prompts)) == 3
    assert [each["prompt"] for each in result.samples] == prompts[:3]
    assert [each["after"] for each in result.samples] == [each["answer"] for each in samples[6:]]
    assert all(each["wanted"] and each["before"] is not None for each in result.samples)


def test_a_classifier_says_its_classes(classifying: Configure) -> None:
    config = classifying(epochs=8)
    result = ll.train(config)
    classes = set(open_task("jsonl", config.data).labels)
    assert {each["wanted"] for each in result.samples} <= classes
    assert {each["after"] for each in result.samples} <= classes
    assert [each["after"] for each in result.samples] == [each["wanted"] for each in result.samples]


def test_nothing_is_measured_where_nothing_is_wanted(configured: Configure) -> None:
    config = configured(steps=1, eval_limit=0)
    result = ll.train(config)
    assert (result.before, result.metrics, result.samples, result.held_out) == ({}, {}, [], None)
    assert not Path(config.out, "samples.jsonl").exists()


def test_a_resumed_run_knows_what_was_before_it(configured: Configure) -> None:
    config = configured(steps=2)
    first = ll.train(config)
    more = ll.train(replace(config, steps=4, resume=True))
    assert more.before == first.before
    assert [each["before"] for each in more.samples] == [each["before"] for each in first.samples]
    assert [each["step"] for each in _lines(config, "samples.jsonl")] == [0, 0, 0, 2, 2, 2, 4, 4, 4]


def test_samples_are_spread_over_what_is_measured() -> None:
    assert spread_evenly(9, 3) == (0, 3, 6)
    assert spread_evenly(2, 3) == (0, 1)
    assert spread_evenly(0, 3) == ()


def test_what_can_be_done_next_fits_the_adapter(configured: Configure) -> None:
    config = configured("my run", steps=1)
    following = ll.train(config).next
    assert following.keys() == {"eval", "generate", "inspect", "merge"}
    assert f"--adapter '{config.out}'" in following["eval"]
    assert "--split validation" in following["eval"]
    prefix = ll.train(configured("prefix", steps=1, method="prefix-embed")).next
    assert "merge" not in prefix
