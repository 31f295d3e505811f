"""The search is tried against every size; what it searches in, on a real model."""

from collections.abc import Callable
from pathlib import Path

import pytest

import loralab as ll
from loralab.experiments.comparison.budget import matched_settings, nearest_size, with_size
from loralab.experiments.comparison.cells import Setting, settings_of
from loralab.experiments.comparison.config import CompareConfig
from loralab.experiments.comparison.process import settings_of_equal_budget
from tiny import write_bert, write_labels, write_llama, write_pairs


@pytest.mark.parametrize("at_least, step", [(0, 1), (0, 48), (100, 7), (33, 1000)])
@pytest.mark.parametrize("budget", [1, 50, 999, 4096, 12345])
def test_it_is_the_nearest_of_all_sizes(at_least: int, step: int, budget: int) -> None:
    found = nearest_size(lambda _, size: at_least + step * size, "lora", budget)
    assert found == min(range(1, 20_000), key=lambda size: abs(at_least + step * size - budget))


@pytest.mark.parametrize("limit", [1, 2, 3, 31, 32, 33])
def test_a_size_that_the_model_cannot_take_is_not_chosen(limit: int) -> None:
    assert nearest_size(lambda _, size: 10 * size if size <= limit else None, "lora", 10_000) == limit


def test_it_counts_few_times() -> None:
    asked: list[int] = []
    nearest_size(lambda _, size: asked.append(size) or 64 * size, "lora", 64 * 5000)  # type: ignore[func-returns-value]
    assert len(asked) < 40


def test_what_cannot_be_counted_is_an_error() -> None:
    with pytest.raises(ll.SpecError, match="cannot take bitfit, not even at size 1"):
        nearest_size(lambda _, size: None, "bitfit", 10)


def test_positions_are_divided_as_they_were() -> None:
    setting = Setting(method="prefix-embed", prefix=12, infix=4)
    assert with_size(setting, 8) == Setting(method="prefix-embed", prefix=6, infix=2)
    assert with_size(setting, 1) == Setting(method="prefix-embed", prefix=1, infix=0)
    assert with_size(Setting(method="lora+prefix-embed", rank=1, prefix=8, infix=8), 3).rank == 3


Configure = Callable[..., CompareConfig]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    model, data = write_llama(tmp_path / "llama"), write_pairs(tmp_path / "pairs")
    return lambda *methods, **changes: CompareConfig(
        model=str(model), task="jsonl", data=str(data), out=str(tmp_path / "out"), methods=methods, **changes
    )


def test_methods_on_a_model_come_near_the_budget(configure: Configure) -> None:
    config = configure(
        "lora", "full", "adapter-l", "prefix-layer", target_sets="q;k;q,v", prefix=8, infix=8, match_params=1400
    )
    matched = matched_settings(config, settings_of(config))
    assert [(each.method, each.targets, each.rank or each.size or each.prefix) for each in matched] == [
        ("lora", "q", 11),  # 2 blocks of 32 + 32 = 128 for each rank: 1408
        ("lora", "k", 15),  # 2 blocks of 32 + 16 = 96: 1440; 14 gives 1344 and is 56 off
        ("lora", "q,v", 6),  # 224: 1344
        ("full", None, None),
        ("adapter-l", None, 9),  # 2 blocks of 2·32·9 + 9 + 32, and their LayerNorms: 192 + 130·9 = 1362
        ("prefix-layer", None, 11),  # 22 positions of 2·32: 1408
    ]


def test_a_classifier_is_counted_without_its_head(tmp_path: Path) -> None:
    model, data = write_bert(tmp_path / "bert"), write_labels(tmp_path / "labels")
    methods = ("lora", "adapter-h", "prefix-embed")
    config = CompareConfig(
        model=str(model), task="jsonl", data=str(data), out="o", methods=methods, match_params=1024, prefix=3, infix=1
    )
    lora, bottleneck, prefix = matched_settings(config, settings_of(config))
    assert (lora.rank, bottleneck.size) == (4, 3)  # 256 for each rank; 4·(32 + 65·size)
    assert (prefix.prefix, prefix.infix) == (24, 8)


@pytest.mark.slow
def test_errors_come_back_from_the_process_that_counts(configure: Configure) -> None:
    wrong = configure("lora", targets="nowhere", match_params=1000)
    with pytest.raises(ll.TargetError, match="nowhere"):
        settings_of_equal_budget(wrong, settings_of(wrong))
