"""Which settings a method takes: what the table says is what its specification has, and the rest is refused."""

import re
from dataclasses import fields

import pytest

import loralab as ll
from loralab.experiments.comparison.config import CompareConfig
from loralab.methods.registry import _load
from loralab.methods.settings import TAKERS, MethodSettings
from loralab.methods.table import METHODS
from loralab.training.config import TrainConfig

RUN = {"model": "m", "task": "jsonl", "out": "o"}
OF_TRAINING = {"lora_plus_ratio"}
"""Settings that a method takes and its specification does not: what its optimizer is told."""


@pytest.mark.parametrize("name", list(METHODS))
def test_the_table_says_what_the_specification_has(name: str) -> None:
    row = METHODS[name]
    called = {each.name: row.called.get(each.name, each.name) for each in fields(_load(row.spec))}
    settings = {each.name for each in fields(MethodSettings)}
    has = {called[each] for each in called if each not in row.fixed or each == "init"} & settings
    has |= {"init", "pissa_iterations"} if "start" in called.values() else set()
    assert set(row.takes) - OF_TRAINING == has - row.fixed.keys()


@pytest.mark.parametrize(
    "given",
    [
        {"method": "full", "alpha": 99.0},
        {"method": "bitfit", "targets": "q"},
        {"method": "prefix-embed", "rank": 4},
        {"method": "pissa", "init": "gaussian"},
        {"method": "rslora", "rank_stabilized": True, "size": 3},
        {"method": "lora", "nearest_step": True},
        {"method": "lora", "pissa_iterations": 4},
        {"method": "tied", "alpha": 4.0},
        {"method": "full", "lora_plus_ratio": 16.0},
    ],
    ids=str,
)
def test_a_setting_without_effect_is_said(given: dict[str, object]) -> None:
    config = TrainConfig(**RUN, **given)
    config.validate()
    (sentence,) = (each for each in config.idle_settings() if each.startswith(list(given)[-1]))
    assert re.search("does not take it|it is for init", sentence)


def test_settings_of_a_start_that_was_not_chosen_are_refused() -> None:
    with pytest.raises(ll.SpecError, match="eva_batches"):
        TrainConfig(**RUN, method="lora", eva_batches=2).validate()


def test_settings_at_their_defaults_are_no_matter() -> None:
    assert TrainConfig(**RUN, method="full", alpha=16.0, size=64).idle_settings() == []
    assert TrainConfig(**RUN, method="lora+prefix-embed", rank=4, prefix=3).idle_settings() == []


def test_who_takes_it_is_said() -> None:
    (sentence,) = TrainConfig(**RUN, prefix=3).idle_settings()
    assert sentence == "prefix 3: method lora does not take it (prefix-embed, prefix-layer take it)"


def test_a_comparison_gives_each_method_what_it_takes() -> None:
    config = CompareConfig(model="m", task="jsonl", out="o", methods=("lora", "full", "adapter-h"), alpha=99.0, size=8)
    config.validate()
    assert config.training(method="lora").alpha == 99.0
    assert config.training(method="full").alpha == 16.0
    assert (config.training(method="lora").size, config.training(method="adapter-h").size) == (64, 8)
    for method in config.methods:
        config.training(method=method).validate()


def test_a_comparison_refuses_what_none_of_its_methods_takes() -> None:
    config = CompareConfig(model="m", task="jsonl", out="o", methods=("lora", "full"), experts=3)
    with pytest.raises(ll.SpecError, match=r"experts 3: none of the methods \(lora, full\) takes it"):
        config.validate()


def test_every_setting_of_some_methods_is_one() -> None:
    assert {each.name for each in fields(MethodSettings)} >= TAKERS - OF_TRAINING
