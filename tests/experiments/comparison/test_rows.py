from typing import Any

import pytest

from experiments.invented import full, lora, row
from loralab.experiments.comparison.cells import Cell, Setting
from loralab.experiments.comparison.process import Outcome
from loralab.experiments.comparison.rows import Failure, loose, main_metric, rows_of, spread
from loralab.training.config import TrainConfig


def outcome(seed: int, rank: int, accuracy: float | None, **changes: Any) -> Outcome:
    config = TrainConfig(model="m", task="t", out="o", seed=seed, lr=1e-3)
    cell = Cell(f"{rank}-{seed}", Setting(method="lora", rank=rank), config)
    if accuracy is None:
        return Outcome(cell, None, "it did not")
    result = {
        "trainable_params": 110, "head_params": 3, "total_params": 1000, "tokens_per_second": 10.0 * seed,
        "peak_memory_bytes": seed, "steps": 4, "seconds": 2.0 * seed, "metrics": {"loss": 1.0, "accuracy": accuracy},
    }  # fmt: skip
    return Outcome(cell, result | changes)


def test_a_row_is_a_setting_over_its_seeds() -> None:
    rows = rows_of([outcome(1, 2, 50.0), outcome(2, 2, 60.0), outcome(3, 2, 61.0), outcome(1, 4, 70.0)], budget=100)
    assert [(each.rank, each.seeds) for each in rows] == [(2, (1, 2, 3)), (4, (1,))]
    accuracy = rows[0].metrics["accuracy"]
    assert (accuracy.median, accuracy.mean, accuracy.n, accuracy.values) == (60.0, 57.0, 3, (50.0, 60.0, 61.0))
    assert accuracy.sd == pytest.approx(6.0828, abs=1e-4)
    assert (rows[0].tokens_per_second, rows[0].peak_memory_bytes, rows[0].seconds) == (20.0, 3, 4.0)
    assert (rows[0].budget_miss, rows[0].share) == (0.1, 0.11)
    assert list(rows[0].metrics) == ["accuracy", "loss"]


def test_failures_are_kept_beside_what_the_others_reached() -> None:
    some, none = rows_of([outcome(1, 2, None), outcome(2, 2, 60.0), outcome(1, 4, None)])
    assert (some.seeds, some.failed) == ((2,), (Failure(1, "it did not"),))
    assert (none.seeds, none.metrics, none.trainable_params) == ((), {}, None)


def test_one_seed_has_no_spread() -> None:
    assert (spread([3.0]).sd, spread([3.0]).n) == (0.0, 1)


def test_rows_are_judged_by_the_task_before_the_loss() -> None:
    both = row("lora", seeds=(1,), metrics=row("a", 50.0).metrics | row("a", 1.0, metric="loss").metrics)
    assert main_metric([both]) == "accuracy"
    assert main_metric([both], "loss") == "loss"
    assert main_metric([lora(1.0, metric="loss"), full(metrics={})]) == "loss"
    assert main_metric([full(metrics={})]) is None


def test_figures_on_few_examples_are_loose() -> None:
    few = {"held_out": {"split": "validation", "examples": 3, "rows": 3}}
    assert rows_of([outcome(1, 2, 40.0, **few)])[0].held_out_examples == 3
    (sentence,) = loose(rows_of([outcome(1, 2, 40.0, **few), outcome(2, 2, 50.0, **few)]))
    assert "±57 points" in sentence
    assert loose(rows_of([outcome(1, 2, 40.0)])) == ()
