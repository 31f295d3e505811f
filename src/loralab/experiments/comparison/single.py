"""One cell of a comparison, trained alone: what a job of an array does, on any machine that sees the folder.

Jobs do not wait for each other: each holds its own cell; whichever comes first writes down what is compared, and all
would write the same. The table is made by the same command without `--cell`, when they have ended.
"""

from pathlib import Path

from loralab.errors import SpecError, TrainingError
from loralab.experiments.comparison.cells import Setting, cells_of, settings_of
from loralab.experiments.comparison.config import CompareConfig
from loralab.experiments.comparison.folder import ComparisonFolder, earlier_settings, held, of_cell, record_settings
from loralab.experiments.comparison.process import Outcome, finished, run_cell, settings_of_equal_budget


def train_cell(config: CompareConfig) -> tuple[Outcome, int]:
    """(what came of the cell that `config.cell` counts, the number of all cells).

    Raises SpecError where there is no such cell, OutputError where the folder holds something else or the cell is at
    work, TrainingError where it failed.
    """
    config.validate()
    assert config.cell is not None
    folder = ComparisonFolder(Path(config.out))
    earlier = earlier_settings(folder, config)
    settings = _settings(config) if earlier is None else earlier
    cells = cells_of(config, settings)
    if config.cell >= len(cells):
        raise SpecError(f"cell {config.cell}: this comparison has {len(cells)} cells, 0 to {len(cells) - 1}")
    cell = cells[config.cell]
    cell.config.validate()
    if earlier is None:
        record_settings(folder, config, settings)
    with held(of_cell(folder, cell.name)) as lock:
        outcome = finished(cell) or run_cell(cell, lock)
    if outcome.failure is not None:
        raise TrainingError(f"cell {config.cell}, {cell.name}, failed: {outcome.failure}")
    return outcome, len(cells)


def _settings(config: CompareConfig) -> list[Setting]:
    settings = settings_of(config)
    return settings if config.match_params is None else settings_of_equal_budget(config, settings)
