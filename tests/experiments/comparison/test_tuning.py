"""A comparison whose rates were found first: the same rule for all, on data that are not reported."""

import json
from pathlib import Path

import pytest

from loralab.cli.main import main
from loralab.errors import SpecError, TrainingError
from loralab.experiments.comparison.cells import cells_of, settings_of
from loralab.experiments.comparison.config import CompareConfig
from loralab.experiments.comparison.process import Outcome
from loralab.experiments.comparison.tuning import at_an_end, best_rates, rates_for, tuning_cells
from tiny import write_llama, write_pairs

CONFIG = CompareConfig(model="m", task="jsonl", out="o", methods=("lora", "full"), seeds=(1, 2), tuned=True, steps=40)


def test_every_setting_has_as_many_trials_around_its_own_rate() -> None:
    cells = tuning_cells(CONFIG, settings_of(CONFIG))
    assert [cell.config.lr for cell in cells] == [*rates_for("lora"), *rates_for("full")]
    assert rates_for("lora") == (5e-5, 1.5e-4, 5e-4, 1.5e-3, 5e-3)
    assert rates_for("full") == (5e-6, 1.5e-5, 5e-5, 1.5e-4, 5e-4)
    assert {(cell.config.seed, cell.config.steps, cell.config.training_share) for cell in cells} == {(0, 10, 0.1)}
    assert len({cell.name for cell in cells}) == 10


def test_the_best_rate_is_that_of_the_reported_trainings() -> None:
    cells = tuning_cells(CONFIG, settings_of(CONFIG))
    wished = {"lora": 1.5e-3, "full": 5e-6}
    outcomes = [
        Outcome(cell, {"metrics": {"loss": 1.0 if cell.config.lr == wished[cell.setting.method] else 2.0}})
        for cell in cells
    ]
    rates = best_rates(CONFIG, outcomes)
    assert {cell.setting.method: cell.config.lr for cell in cells_of(CONFIG, settings_of(CONFIG), rates)} == wished
    assert at_an_end(rates) == ("full: its best rate, 5e-06, is the lowest that was tried",)
    failed = [Outcome(each.cell, None, "nan") if each.cell.setting.method == "full" else each for each in outcomes]
    with pytest.raises(TrainingError, match="no rate was found for full"):
        best_rates(CONFIG, failed)


def test_what_contradicts_tuning_is_said() -> None:
    base = {"model": "m", "task": "jsonl", "out": "o", "methods": ("lora",), "tuned": True}
    for message, changes in {
        "method_lr gives rates": {"method_lr": {"lora": 1e-3}},
        "tune_share 2": {"tune_share": 2.0},
        "the seeds hold out different parts": {"validation_share": 0.1},
    }.items():
        with pytest.raises(SpecError, match=message):
            CompareConfig(**base | changes).validate()


@pytest.mark.slow
def test_a_tuned_comparison_says_so_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data, out = write_llama(tmp_path / "llama"), write_pairs(tmp_path / "pairs"), tmp_path / "out"
    flags = [
        "compare", "--model", str(model), "--task", "jsonl", "--data", str(data), "--out", str(out), "--methods",
        "lora", "--rank", "2", "--seeds", "1", "--steps", "8", "--batch-size", "8", "--eval-limit", "8", "--dtype",
        "float32", "--tuned",
    ]  # fmt: skip
    assert main(flags) == 0
    said = capsys.readouterr().out
    assert said.startswith("Tuned: every setting has its own best of 5 rates")
    assert (out / "table.md").read_text().splitlines()[2].startswith("Tuned")
    found = {
        json.loads(p.read_text())["config"]["lr"]: json.loads(p.read_text()) for p in out.glob("tuning/*/run.json")
    }
    assert sorted(found) == list(rates_for("lora"))
    best = min(found, key=lambda rate: found[rate]["result"]["metrics"]["loss"])
    (row,) = json.loads((out / "results.json").read_text())["rows"]
    assert row["lr"] == best
