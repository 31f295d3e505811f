from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from experiments.invented import full, lora, row
from loralab.experiments.comparison import plots
from loralab.experiments.comparison.plots import draw_comparison
from loralab.experiments.comparison.rows import Row
from loralab.pictures.picture import style

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


def drawn_axes(rows: list[Row], metric: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Axes:
    """The panel of parameters.png, as matplotlib has it."""
    kept: list[Axes] = []
    monkeypatch.setattr(plots, "style", lambda axes, **words: (kept.append(axes), style(axes, **words)))
    plots.draw_comparison(rows, metric, tmp_path, "")
    return kept[0]


def test_error_bars_end_where_the_metric_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [
        lora(0.0, 40.0, 0.0, rank=1, trainable_params=26_000),
        lora(99.0, 60.0, rank=4, trainable_params=1_200_000),
    ]
    axes = drawn_axes(rows, "accuracy", monkeypatch, tmp_path)
    ends = [point[1] for bar in axes.collections for path in bar.get_paths() for point in path.vertices]
    assert rows[0].metrics["accuracy"].mean < rows[0].metrics["accuracy"].sd, "unclipped it would go below 0"
    assert (min(ends), max(ends)) == (0.0, 100.0)


def test_parameters_stand_on_a_scale_of_ratios_in_numbers_that_people_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [lora(60.0, rank=1, trainable_params=26_000), lora(61.0, rank=4, trainable_params=1_200_000)]
    axes = drawn_axes(rows, "accuracy", monkeypatch, tmp_path)
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["20k", "50k", "100k", "200k", "500k", "1M"]
    assert "log10" not in axes.get_xlabel()
