from pathlib import Path

import pytest
from rich.console import Console

from loralab.experiments.comparison.cells import Cell, cells_of, settings_of
from loralab.experiments.comparison.config import CompareConfig
from loralab.experiments.comparison.process import Outcome
from loralab.experiments.comparison.progress import ComparisonProgress

RESULT = {
    "trainable_params": 110, "head_params": 3, "total_params": 1000, "tokens_per_second": 2345.0,
    "peak_memory_bytes": 5, "steps": 4, "seconds": 2.0, "metrics": {"accuracy": 61.0},
}  # fmt: skip


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    config = CompareConfig(
        model="m", task="t", out=str(tmp_path), methods=("lora", "full"), seeds=(1, 2), targets="q,v"
    )
    return cells_of(config, settings_of(config))


def test_elsewhere_a_line_for_each_cell(cells: list[Cell], capsys: pytest.CaptureFixture[str]) -> None:
    with ComparisonProgress(cells, None) as progress:
        progress.end(Outcome(cells[0], RESULT))
        progress.start(cells[1])
        progress.end(Outcome(cells[1], None, "no memory"))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "cell 1/4  lora-r8-q-v-seed-1  accuracy 61, finished before",
        "cell 2/4  lora-r8-q-v-seed-2 …",
        "cell 2/4  lora-r8-q-v-seed-2  failed: no memory, in 0 s",
    ]


def test_in_a_terminal_a_table_of_what_is_done_and_what_runs(cells: list[Cell]) -> None:
    progress = ComparisonProgress(cells, None)
    for cell in cells[:2]:
        progress.end(Outcome(cell, RESULT))
    progress.start(cells[2])
    console = Console(width=80)
    with console.capture() as capture:
        console.print(progress.table())
    text = capture.get()
    assert "2 of 4 cells" in text
    assert "training full-seed-1, 0 s" in text
    assert any(line.split()[1:] for line in text.splitlines() if "61.00 ± 0.00" in line and "2,345" in line)
