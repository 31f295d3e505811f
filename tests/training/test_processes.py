"""A run of several processes is the run of one: its losses, its adapter, its evaluations and its continuation."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import loralab as ll
from launched import Trained, train_each
from loralab.methods.settings import TAKERS
from loralab.methods.table import METHOD_NAMES, rows_of
from loralab.processes.launch import run_in_processes
from tiny import write_bert, write_labels, write_llama, write_pairs, write_preferences

SMALL = {"size": 8, "prefix": 2, "infix": 2}
BY_CHANCE = tuple(name for name in METHOD_NAMES if any(row.by_chance for row in rows_of(name)))
"""They draw what trains, and each process draws for itself."""
CASES: dict[str, dict[str, Any]] = {
    "plain": {"steps": 30},
    "all at once": {"steps": 30, "accumulate": 3, "clip": 0.5, "weight_decay": 0.1, "schedule": "cosine"},
    "few examples in the last batch": {"steps": 8, "limit": 9},
    "best": {"steps": 12, "eval_every": 2, "early_stop": 2, "schedule": "constant"},
    "to go on with": {"steps": 12, "save_every": 4, "keep": 3},
    "packed": {"steps": 6, "packing": True, "max_length": 64, "batch_size": 2},
    "checkpointed": {"steps": 4, "gradient_checkpointing": True},
    "eva": {"steps": 6, "init": "eva"},
    "pissa": {"steps": 6, "init": "pissa"},
    "four bits": {"steps": 6, "quantize": "nf4"},
    "four bits, doubly": {"steps": 6, "quantize": "nf4-double", "method": "dora"},
    "four bits beside directions": {"steps": 6, "quantize": "nf4", "init": "pissa"},
    "pairs": {"steps": 12, "pairs": True, "preference": "dpo", "batch_size": 5, "limit": 14, "eval_every": 6},
}
TRAINING_WEIGHTS = tuple(name for name in METHOD_NAMES if any(row.trains_weights for row in rows_of(name)))
Configure = Callable[..., ll.TrainConfig]


@pytest.fixture(scope="module")
def configure(tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """A configuration by its folder's name."""
    place = tmp_path_factory.mktemp("processes")
    model, data = write_llama(place / "llama"), write_pairs(place / "pairs")
    encoder, labels = without_dropout(write_bert(place / "bert")), write_labels(place / "labels")
    preferences = write_preferences(place / "preferences")

    def configured(out: str, **changes: Any) -> ll.TrainConfig:
        settings = {
            "model": str(model), "data": str(data), "task": "jsonl", "out": str(place / out), "rank": 2, "steps": 4,
            "batch_size": 8, "lr": 1e-2, "alpha": 32.0, "targets": "q_proj,v_proj,lm_head", "eval_limit": 8,
            "dtype": "float32", "device": "cpu", "samples": 1, "board": (),
        }  # fmt: skip
        if changes.pop("classes", False):
            settings |= {"model": str(encoder), "data": str(labels), "targets": None}
        if changes.pop("pairs", False):
            settings["data"] = str(preferences)
        config = ll.TrainConfig(**settings | changes)
        taken = {name for row in rows_of(config.method) for name in row.takes}
        return replace(config, **{f.name: f.default for f in fields(config) if f.name in TAKERS - taken})

    return configured


def without_dropout(model: Path) -> Path:
    """Each process drops out for itself."""
    file = model / "config.json"
    config = json.loads(file.read_text()) | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    file.write_text(json.dumps(config))
    return model


def cases_of(configure: Configure, of: str) -> dict[str, ll.TrainConfig]:
    """What is trained by one process and by several: by settings, and by method."""
    by_case = {name: configure(f"{of}/{name}", **changes) for name, changes in CASES.items()}
    by_case["classes"] = configure(f"{of}/classes", classes=True, steps=8, eval_every=2)
    methods = {method: configure(f"{of}/{method}", method=method, samples=0, **SMALL) for method in GENERATING}
    return by_case | methods


GENERATING = tuple(name for name in (*METHOD_NAMES, "lora+prefix-embed") if name != "bitfit")
"""This model has no biases."""


@pytest.fixture(scope="module")
def alone(configure: Configure) -> dict[str, ll.TrainResult]:
    return {name: ll.train(config) for name, config in cases_of(configure, "one").items()}


@pytest.fixture(scope="module")
def of_two(configure: Configure) -> dict[str, Trained]:
    configs = cases_of(configure, "two")
    results: Sequence[Trained] = run_in_processes(2, train_each, tuple(configs.values()))
    return dict(zip(configs, results, strict=True))


def losses(folder: str) -> list[tuple[int, str, float]]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [(each["step"], each["split"], each["loss"]) for each in map(json.loads, lines)]


def check_same(one: Trained, other: Trained, within: float = 1e-5) -> None:
    assert isinstance(one, ll.TrainResult), one
    assert isinstance(other, ll.TrainResult), other
    first, second = losses(one.adapter), losses(other.adapter)
    assert [each[:2] for each in first] == [each[:2] for each in second]
    assert [each[2] for each in first] == pytest.approx([each[2] for each in second], abs=within)
    assert one.metrics == pytest.approx(other.metrics, abs=1e-3)
    assert (one.tokens, one.best_step, one.samples) == (other.tokens, other.best_step, other.samples)
    check_same_tensors(one.adapter, other.adapter)


def check_same_tensors(one: str, other: str) -> None:
    first, second = (load_file(Path(each) / "adapter_model.safetensors") for each in (one, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, "classes"])
def test_two_processes_train_as_one(alone: dict[str, Trained], of_two: dict[str, Trained], case: str) -> None:
    check_same(alone[case], of_two[case])


@pytest.mark.slow
@pytest.mark.parametrize("method", GENERATING)
def test_every_method_trains_in_two_processes(
    alone: dict[str, Trained], of_two: dict[str, Trained], method: str
) -> None:
    if method not in BY_CHANCE:
        check_same(alone[method], of_two[method])
        return
    result = of_two[method]
    assert isinstance(result, ll.TrainResult), result
    assert result.first_loss == pytest.approx(alone[method].first_loss, abs=1e-5)


@pytest.fixture(scope="module")
def sharded(configure: Configure) -> dict[str, Trained]:
    configs = {name: replace(config, shard=True) for name, config in cases_of(configure, "sharded").items()}
    results: Sequence[Trained] = run_in_processes(2, train_each, tuple(configs.values()))
    return dict(zip(configs, results, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, "classes", *GENERATING])
def test_a_sharded_base_trains_as_a_whole_one_or_is_refused(
    alone: dict[str, Trained], sharded: dict[str, Trained], case: str
) -> None:
    result = sharded[case]
    if isinstance(result, str):
        assert case in TRAINING_WEIGHTS
        assert re.match(r"SpecError: shard and method", result)
    elif case not in BY_CHANCE:
        check_same(alone[case], replace(result, samples=alone[case].samples))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"quantize": "nf4"}, {"method": "dora"}])
def test_weights_are_rounded_as_those_of_a_whole_base(configure: Configure, changes: dict[str, Any]) -> None:
    """Each processor rounds sums in bfloat16 by the shape of its batch: both have two processes."""
    of = "-".join(changes.values()) or "lora"
    configs = [
        configure(f"rounded/{of}-{shard}", dtype="bfloat16", steps=6, samples=0, shard=shard, **changes)
        for shard in (False, True)
    ]
    whole, parts = run_in_processes(2, train_each, tuple(configs))
    check_same(whole, parts)


@pytest.mark.slow
def test_four_processes_train_as_one(configure: Configure, alone: dict[str, Trained]) -> None:
    check_same(alone["plain"], ll.train(configure("four", steps=30, processes=4)))


@pytest.mark.slow
def test_two_pairs_of_processes_hold_a_base_each(configure: Configure, alone: dict[str, Trained]) -> None:
    whole = alone["four bits"]
    parts = ll.train(configure("2x2", steps=6, quantize="nf4", shard=2, processes=4, samples=0))
    check_same(whole, replace(parts, samples=whole.samples))


@pytest.mark.slow
@pytest.mark.parametrize("before, after", [("one", 2), ("two", None)])
def test_a_run_goes_on_with_another_number_of_processes(
    configure: Configure, alone: dict[str, Trained], of_two: dict[str, Trained], before: str, after: int | None
) -> None:
    case = "to go on with"
    whole, began = alone[case], configure(f"{before}/{case}", **CASES[case])
    for step in (8, 12):
        (Path(began.out) / "checkpoints" / f"step-{step:08}.safetensors").unlink()
    check_same(whole, ll.train(replace(began, resume=True, processes=after)))
