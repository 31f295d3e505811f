"""One cell of a comparison alone, as a job of an array trains it; then the table of all."""

from dataclasses import replace
from pathlib import Path

import pytest

import loralab as ll
from loralab.experiments.comparison.cells import cells_of, settings_of
from loralab.experiments.comparison.compare import compare
from loralab.experiments.comparison.config import CompareConfig
from loralab.experiments.comparison.folder import ComparisonFolder, held, of_cell, record_settings
from loralab.experiments.comparison.single import train_cell
from tiny import write_llama, write_pairs


@pytest.fixture
def config(tmp_path: Path) -> CompareConfig:
    return CompareConfig(
        model=str(write_llama(tmp_path / "llama")), task="jsonl", data=str(write_pairs(tmp_path / "pairs")),
        out=str(tmp_path / "out"), methods=("lora", "bitfit"), seeds=(1, 2), rank=2, steps=2, eval_limit=4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"cell": -1}, "counted from 0"), ({"cell": 4}, "has 4 cells, 0 to 3"),
     ({"cell": 0, "overwrite": True}, "cell 0 and overwrite"), ({"cell": 0, "tuned": True}, "cell 0 and tuned")],
)  # fmt: skip
def test_cells_that_cannot_be(config: CompareConfig, changes: dict[str, int], said: str) -> None:
    with pytest.raises(ll.SpecError, match=said):
        train_cell(replace(config, **changes))
    assert not Path(config.out).exists()


def test_a_cell_that_is_at_work_is_left_alone(config: CompareConfig) -> None:
    record_settings(ComparisonFolder(Path(config.out)), config, settings_of(config))
    name = cells_of(config, settings_of(config))[0].name
    with held(of_cell(ComparisonFolder(Path(config.out)), name)), pytest.raises(ll.OutputError, match="is in use"):
        train_cell(replace(config, cell=0))


@pytest.mark.slow
def test_cells_one_by_one_are_the_comparison(config: CompareConfig) -> None:
    config = replace(config, methods=("lora",))
    outcomes = [train_cell(replace(config, cell=cell)) for cell in (1, 0)]
    assert [cells for _, cells in outcomes] == [2, 2]
    again, _ = train_cell(replace(config, cell=0))
    assert again.result == outcomes[1][0].result
    (row,) = compare(config).rows
    assert row.metrics["loss"].mean == pytest.approx(
        sum(each.result["metrics"]["loss"] for each, _ in outcomes if each.result) / 2
    )
