"""`compare`: many trainings, one after another, to one table, its pictures, and the paper's claims judged."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from loralab.errors import TrainingError
from loralab.experiments.comparison.cells import Cell, Setting, cells_of, settings_of
from loralab.experiments.comparison.claims import Claim, judge_claims
from loralab.experiments.comparison.cluster import cells_on_cluster
from loralab.experiments.comparison.config import CompareConfig
from loralab.experiments.comparison.folder import ComparisonFolder, clear, earlier_settings, held, record_settings
from loralab.experiments.comparison.plots import draw_comparison
from loralab.experiments.comparison.process import Outcome, finished, run_cell, settings_of_equal_budget
from loralab.experiments.comparison.progress import ComparisonProgress
from loralab.experiments.comparison.rows import Row, loose, main_metric, rows_of
from loralab.experiments.comparison.table import markdown
from loralab.experiments.comparison.tuning import at_an_end, best_rates, how_tuned, tuning_cells
from loralab.files.whole import write_json, write_text


@dataclass(frozen=True)
class Comparison:
    """What came of it."""

    rows: tuple[Row, ...]
    metric: str | None
    """What the claims and the pictures are about; None where nothing was measured."""
    claims: tuple[Claim, ...]
    out: Path
    results: Path
    table: Path
    plots: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    """What to mind of the figures."""
    how_tuned: str = ""
    """How each method came to its rate: the first thing to know."""


def compare(config: CompareConfig) -> Comparison:
    """Train every cell that is not finished, and write what all of them say into `config.out`.

    Raises SpecError for a comparison that cannot be or differs from the one in the folder, OutputError for a folder in
    use; and TrainingError naming the cells that failed, after everything else ran and was written.
    """
    config.validate()
    folder = ComparisonFolder(Path(config.out))
    if not config.overwrite:
        earlier_settings(folder, config)
    for cell in cells_of(config, settings_of(config)):
        cell.config.validate()  # before the first begins
    if config.overwrite:
        clear(folder)
        config = replace(config, overwrite=False)
    with held(folder) as lock:
        settings = earlier_settings(folder, config) or _begin(folder, config)
        rates = best_rates(config, _run(tuning_cells(config, settings), config, lock)) if config.tuned else {}
        outcomes = _run(cells_of(config, settings, rates), config, lock)
        comparison = _write(folder, config, outcomes, at_an_end(rates))
    _complain(outcomes, folder)
    return comparison


def as_answer(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON has it, with each row's label."""
    rows = [{"label": row.label, **asdict(row)} for row in comparison.rows]
    return asdict(comparison) | {"rows": rows}


def _begin(folder: ComparisonFolder, config: CompareConfig) -> list[Setting]:
    settings = settings_of(config)
    if config.match_params is not None:
        settings = settings_of_equal_budget(config, settings)
    record_settings(folder, config, settings)
    return settings


def _run(cells: Sequence[Cell], config: CompareConfig, lock: int) -> list[Outcome]:
    with ComparisonProgress(cells, config.best_metric) as progress:
        if config.cluster is None:
            return [_run_here(cell, lock, progress) for cell in cells]
        there = {cell.name: outcome for cell in cells if (outcome := finished(cell)) is not None}
        for outcome in there.values():
            progress.end(outcome)
        left = [cell for cell in cells if cell.name not in there]
        for cell in left:
            progress.start(cell)
        for outcome in cells_on_cluster(left, config) if left else ():
            progress.end(outcome)
            there[outcome.cell.name] = outcome
        return [there[cell.name] for cell in cells]


def _run_here(cell: Cell, lock: int, progress: ComparisonProgress) -> Outcome:
    outcome = finished(cell)
    if outcome is None:
        progress.start(cell)
        outcome = run_cell(cell, lock)
    progress.end(outcome)
    return outcome


def _write(
    folder: ComparisonFolder, config: CompareConfig, outcomes: Sequence[Outcome], ends: tuple[str, ...]
) -> Comparison:
    rows = rows_of(outcomes, config.match_params)
    claims = judge_claims(rows, config.best_metric)
    plots = draw_comparison(rows, config.best_metric, folder.path, f"{config.model} on {config.task}")
    comparison = Comparison(
        rows=tuple(rows),
        metric=main_metric(rows, config.best_metric),
        claims=tuple(claims),
        out=folder.path,
        results=folder.results,
        table=folder.table,
        plots=tuple(plots),
        notes=(*loose(rows), *ends),
        how_tuned=how_tuned(config),
    )
    write_text(folder.table, markdown(config, rows, claims, comparison.how_tuned))
    write_json(folder.results, _with_names(as_answer(comparison)))
    return comparison


def _with_names(content: Any) -> Any:
    """The content with paths as strings."""
    if isinstance(content, dict):
        return {key: _with_names(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_with_names(each) for each in content]
    return str(content) if isinstance(content, Path) else content


def _complain(outcomes: Sequence[Outcome], folder: ComparisonFolder) -> None:
    failed = [outcome for outcome in outcomes if outcome.failure is not None]
    if failed:
        named = "".join(f"\n  {outcome.cell.name}: {outcome.failure}" for outcome in failed)
        raise TrainingError(
            f"{len(failed)} of {len(outcomes)} cells failed; what the others reached is in {folder.table}. The same "
            f"command tries them again:{named}"
        )
