"""The paper's parameter counts (../shared/spec/paper.md §3-4), from presets, to the last parameter."""

import pytest

from loralab.planning.config import PlanConfig
from loralab.planning.plan import plan
from loralab.planning.presets import PRESETS

UNIT = 2 * 12_288 * 96
"""One rank of one kind of matrix in every block of GPT-3."""

LORA = [
    *(("gpt3-175b", {"rank": rank, "targets": "q,v"}, 2 * rank * UNIT) for rank in (1, 2, 4, 8, 64)),
    *(("gpt3-175b", {"rank": rank, "targets": "q,k,v,o"}, 4 * rank * UNIT) for rank in (1, 2, 4, 8, 64)),
    ("gpt3-175b", {"rank": 4, "targets": "q,v"}, 18_874_368),
    ("gpt3-175b", {"rank": 64, "targets": "q,k,v,o"}, 603_979_776),
    ("gpt3-175b", {"rank": 2, "targets": "v"}, 4_718_592),
    ("gpt3-175b", {"rank": 8, "targets": "q"}, 18_874_368),
    ("roberta-base", {"rank": 8}, 294_912),
    ("roberta-large", {"rank": 8}, 786_432),
    ("deberta-v2-xxlarge", {"rank": 16}, 4_718_592),
    ("deberta-v2-xxlarge", {"rank": 8}, 2_359_296),
    ("gpt2-medium", {"rank": 4}, 393_216),
    ("gpt2-large", {"rank": 4}, 737_280),
    ("llama-2-7b", {"rank": 8}, 4_194_304),
    ("llama-3-8b", {"rank": 8}, 3_407_872),
]
ADAPTERS = [
    ("gpt3-175b", "adapter-h", 1, 7_078_080),
    ("gpt3-175b", "adapter-h", 4, 21_234_432),
    ("gpt3-175b", "adapter-h", 8, 40_109_568),
    ("gpt3-175b", "adapter-h", 16, 77_859_840),
    ("gpt3-175b", "adapter-h", 64, 304_361_472),
    ("gpt2-medium", "adapter-l", 6, 368_784),
    ("gpt2-medium", "adapter-l", 224, 11_089_152),
    ("gpt2-large", "adapter-l", 8, 875_808),
    ("gpt2-large", "adapter-l", 248, 23_002_848),
    ("roberta-large", "adapter-h", 8, 835_968),
    ("roberta-large", "adapter-h", 64, 6_343_680),
    ("roberta-large", "adapter-p", 16, 811_392),
    ("roberta-large", "adapter-p", 64, 3_171_840),
]
OTHERS = [
    ("gpt2-medium", {"method": "top2"}, 25_192_448),
    ("roberta-base", {"method": "bitfit"}, 102_144),
    ("gpt3-175b", {"method": "prefix-embed", "prefix": 256, "infix": 8}, 3_244_032),
    ("gpt3-175b", {"method": "prefix-layer", "prefix": 8, "infix": 8}, 18_874_368),
    (
        "gpt3-175b",
        {"method": "lora+prefix-embed", "rank": 8, "targets": "q,v", "prefix": 8, "infix": 4},
        16 * UNIT + 12 * 12_288,
    ),
    (
        "gpt3-175b",
        {"method": "lora+prefix-layer", "rank": 8, "targets": "q,v", "prefix": 8, "infix": 4},
        16 * UNIT + 96 * 12 * 12_288,
    ),
]
ROWS = [
    *LORA,
    *((model, {"method": method, "size": size}, count) for model, method, size, count in ADAPTERS),
    *OTHERS,
]

MILLIONS = {
    "gpt2": 124.4,
    "gpt2-medium": 354.8,
    "gpt2-large": 774.0,
    "gpt2-xl": 1557.6,
    "gpt3-175b": 174_604.3,
    "bert-base": 109.5,
    "bert-large": 335.1,
    "roberta-base": 124.6,
    "roberta-large": 355.4,
    "deberta-v3-base": 184.4,
    "deberta-v2-xlarge": 886.9,
    "deberta-v2-xxlarge": 1566.4,
    "llama-7b": 6738.4,
    "llama-13b": 13_015.9,
    "llama-30b": 32_528.9,
    "llama-65b": 65_285.7,
    "llama-2-7b": 6738.4,
    "llama-2-13b": 13_015.9,
    "llama-2-70b": 68_976.6,
    "llama-3-8b": 8030.3,
    "llama-3-70b": 70_553.7,
    "llama-3.2-1b": 1235.8,
    "llama-3.2-3b": 3212.7,
}
"""Published sizes of the models, in millions; the encoders' with a head of two classes."""


@pytest.mark.parametrize("model, settings, expected", ROWS)
def test_the_papers_counts(model: str, settings: dict[str, object], expected: int) -> None:
    assert plan(PlanConfig(model=model, dtype="float32", **settings)).trainable_params == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("model", PRESETS)
def test_presets_have_their_models_sizes(model: str) -> None:
    found = plan(PlanConfig(model=model, dtype="float32", sequence_length=16)).total_params
    assert found / 1e6 == pytest.approx(MILLIONS[model], rel=5e-3)


def test_gpt3_in_full_is_the_papers_size() -> None:
    found = plan(PlanConfig(model="gpt3-175b", method="full", dtype="float16"))
    assert found.trainable_params == found.total_params
    assert found.trainable_params == pytest.approx(175_255.8e6, rel=5e-3)


def test_a_classification_head_is_counted_apart() -> None:
    two, many = (plan(PlanConfig(model="roberta-base", labels=labels, dtype="float32")) for labels in (None, 20))
    assert two.head_params == 768 * 768 + 768 + 2 * 768 + 2
    assert many.head_params - two.head_params == 18 * 769
    assert two.trainable_params == many.trainable_params == 294_912
    assert plan(PlanConfig(model="gpt2", labels=3, dtype="float32")).head_params == 3 * 768


def test_the_lowest_blocks_go_without_adapters() -> None:
    found = plan(PlanConfig(model="roberta-large", method="adapter-h", size=8, drop_layers=20, dtype="float32"))
    assert found.trainable_params == 835_968 * 4 // 24
