from pathlib import Path

import numpy as np
from PIL import Image

from experiments.invented import full, lora, row
from loralab.experiments.comparison.plots import draw_comparison

RANKS = [lora(60.0 + rank, 62.0 + rank, rank=rank, trainable_params=250 * rank) for rank in (1, 2, 4)]


def assert_drawn(path: Path) -> None:
    """A picture of a readable size in which series are drawn: colours, not only black on white."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[0] >= 500
    assert pixels.shape[1] >= 900
    coloured = (pixels.max(axis=2) - pixels.min(axis=2)) > 60
    assert coloured.sum() > 500


def test_the_metric_over_parameters_and_over_ranks(tmp_path: Path) -> None:
    drawn = draw_comparison([*RANKS, full(66.0, 67.0)], None, tmp_path, "m on t")
    assert [path.name for path in drawn] == ["parameters.png", "ranks.png"]
    for path in drawn:
        assert_drawn(path)


def test_one_rank_of_each_set_of_targets_is_no_curve_over_ranks(tmp_path: Path) -> None:
    rows = [lora(60.0, rank=8, targets="q"), lora(61.0, rank=4)]
    assert [path.name for path in draw_comparison(rows, None, tmp_path, "")] == ["parameters.png"]


def test_the_metric_over_examples(tmp_path: Path) -> None:
    rows = [row(m, v + n / 100, train_examples=n) for m, v in (("full", 50.0), ("bitfit", 40.0)) for n in (100, 1000)]
    drawn = draw_comparison(rows, None, tmp_path, "m on t")
    assert [path.name for path in drawn] == ["parameters.png", "examples.png"]
    assert_drawn(drawn[1])


def test_all_examples_have_a_place_too(tmp_path: Path) -> None:
    rows = [row("full", 50.0, train_examples=None, metric="loss"), row("lora", 40.0, train_examples=10, metric="loss")]
    assert draw_comparison(rows, None, tmp_path, "")[-1].name == "examples.png"


def test_nothing_measured_is_nothing_drawn(tmp_path: Path) -> None:
    assert draw_comparison([full(metrics={}, seeds=(1,))], None, tmp_path, "") == []
