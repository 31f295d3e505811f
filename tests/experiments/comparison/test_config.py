import tomllib
from typing import Any

import pytest

import loralab as ll
from loralab.cli.settings import build_config
from loralab.experiments.comparison.cells import Setting, as_toml, cells_of, settings_of
from loralab.experiments.comparison.config import CompareConfig


def configure(*methods: str, **changes: Any) -> CompareConfig:
    return CompareConfig(**{"model": "m", "task": "t", "out": "o", "methods": methods} | changes)


@pytest.mark.parametrize(
    "methods, changes, problem",
    [
        ((), {}, "methods none: give at least one"),
        (("lora", "lora"), {}, "methods lora, lora: give at least one, each once"),
        (("lora",), {"seeds": (1, 1)}, "seeds 1, 1: give at least one, each once"),
        (("lora",), {"ranks": ()}, "ranks none"),
        (("lora",), {"target_sets": "q; q"}, "target_sets q, q"),
        (("prefix-embed",), {"prefix_sizes": ("8",)}, "positions before . after the prompt, as 8.4, found '8'"),
        (("full",), {"ranks": (1,)}, r"ranks is for lora, .* and none of the methods \(full\) holds"),
        (("lora",), {"sizes": (8,)}, "sizes is for adapter-h, adapter-l, adapter-p"),
        (("lora",), {"method_lr": {"full": 1e-5}}, r"method_lr names full, which is not among the methods \(lora\)"),
        (("lora",), {"ranks": (1, 2), "match_params": 10}, "match_params chooses what ranks lists"),
        (("lora",), {"match_params": 0}, "match_params 0: at least 1"),
        (("lora",), {"lr": 0.0}, "lr 0.0: it must be above 0"),
    ],
)
def test_what_cannot_be(methods: tuple[str, ...], changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ll.SpecError, match=problem):
        configure(*methods, **changes).validate()


def test_axes_apply_to_the_methods_that_have_them() -> None:
    config = configure(
        "lora", "full", "adapter-h", "lora+prefix-embed",
        ranks=(1, 2), target_sets="q;q,v", sizes=(8, 64), prefix_sizes=("2+1",),
    )  # fmt: skip
    lora = [{"rank": r, "targets": t} for t in ("q", "q,v") for r in (1, 2)]
    assert settings_of(config) == [
        *(Setting(method="lora", **each) for each in lora),
        Setting(method="full"),
        *(Setting(method="adapter-h", size=size) for size in (8, 64)),
        *(Setting(method="lora+prefix-embed", prefix=2, infix=1, **each) for each in lora),
    ]


def test_examples_apply_to_all() -> None:
    settings = settings_of(configure("lora", "bitfit", rank=4, train_sizes=(100, 1000)))
    assert [(each.method, each.rank, each.train_examples) for each in settings] == [
        ("lora", 4, 100), ("lora", 4, 1000), ("bitfit", None, 100), ("bitfit", None, 1000),
    ]  # fmt: skip


def test_a_cell_is_a_training_with_all_that_is_shared() -> None:
    config = configure("lora", "full", method_lr={"full": 1e-5}, lr=1e-3, steps=7, targets="q,v", seeds=(3, 1))
    cells = cells_of(config, settings_of(config))
    assert [cell.name for cell in cells] == [
        "lora-r8-q-v-seed-3", "lora-r8-q-v-seed-1", "full-seed-3", "full-seed-1",
    ]  # fmt: skip
    assert [cell.config.lr for cell in cells] == [1e-3, 1e-3, 1e-5, 1e-5]
    assert {cell.config.steps for cell in cells} == {7}
    assert cells[0].config.out == "o/cells/lora-r8-q-v-seed-3"


def test_targets_are_those_of_lora_alone() -> None:
    config = configure("lora", "adapter-h", targets="q,v", exclude="lm_head", seeds=(1,))
    lora, bottleneck = (cell.config for cell in cells_of(config, settings_of(config)))
    assert (lora.targets, lora.exclude) == ("q,v", "lm_head")
    assert (bottleneck.targets, bottleneck.exclude) == (None, None)


def test_no_two_cells_share_a_folder_and_no_name_leaves_it() -> None:
    config = configure("lora", target_sets=r"q,v;q.v;q|v;../../x;.*\.(q|v)_proj$", seeds=(1,))
    names = [cell.name for cell in cells_of(config, settings_of(config))]
    assert len(set(names)) == len(names) == 5
    assert not any("/" in name for name in names)


def test_toml_says_all_that_a_training_is_told() -> None:
    config = configure(
        "lora", targets='c_attn[q,v],"odd\\d+"', rank_pattern={"q_proj": 4, "a.b": 2}, layers=(0, 1), lr=1e-5,
        epochs=0.5, modules_to_save=("ä",), best_epoch=True,
    )  # fmt: skip
    training = cells_of(config, settings_of(config))[0].config
    assert build_config(ll.TrainConfig, {}, tomllib.loads(as_toml(training)), "cell.toml") == training
