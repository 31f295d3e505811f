"""The rate of every setting of a comparison, found before it: the same rule and the same number of trials for all.

Seed 0 trains each setting at each of five rates for a share of the steps. It is judged on a tenth of the training split
(`training_share`): what the comparison reports is measured on data that no choice of a rate has seen.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from loralab.errors import TrainingError
from loralab.experiments.comparison.cells import Cell, Setting, readable
from loralab.experiments.comparison.config import CompareConfig
from loralab.experiments.comparison.process import Outcome
from loralab.experiments.tuning.grid import AROUND, FULL_FINE_TUNING, TIMES
from loralab.methods.table import rows_of
from loralab.metrics.scores import higher_is_better
from loralab.training.config import DEFAULT_EPOCHS, TrainConfig

SEED = 0
HELD_OUT = 0.1
"""Of the training split."""


def rates_for(method: str) -> tuple[float, ...]:
    """Five, around what is usual for methods that train the weights themselves, or ten times that."""
    in_full = any(row.trains_weights for row in rows_of(method))
    return tuple(float(f"{FULL_FINE_TUNING * (1 if in_full else TIMES) * each:.2g}") for each in AROUND)


def tuning_cells(config: CompareConfig, settings: Sequence[Setting]) -> list[Cell]:
    """A cell for every setting and rate."""
    cells: list[Cell] = []
    for setting in settings:
        for rate in rates_for(setting.method):
            name = f"{readable(setting)}-lr{rate:g}"
            again = sum(cell.name.partition("~")[0] == name for cell in cells)
            name += f"~{again + 1}" if again else ""
            cells.append(Cell(name, setting, _training(config, setting, rate, name)))
    return cells


def best_rates(config: CompareConfig, outcomes: Sequence[Outcome]) -> Mapping[Setting, float]:
    """The rate of each setting that came to the best held-out result. Raises TrainingError for one with none."""
    metric = config.best_metric or "loss"
    sign = -1.0 if higher_is_better(metric) else 1.0
    found: dict[Setting, tuple[float, float]] = {}
    for outcome in outcomes:
        value = sign * outcome.result["metrics"].get(metric, math.nan) if outcome.result else math.nan
        if math.isfinite(value):
            mine = (value, outcome.cell.config.lr)
            found[outcome.cell.setting] = min(found.get(outcome.cell.setting, mine), mine)
    lost = [outcome for outcome in outcomes if outcome.cell.setting not in found]
    if lost:
        raise TrainingError(
            f"no rate was found for {lost[0].cell.setting.method}: none of its trainings came to an end "
            f"({lost[0].failure}); leave it out, or give rates with --method-lr and without --tuned"
        )
    return {setting: rate for setting, (_, rate) in found.items()}


def at_an_end(rates: Mapping[Setting, float]) -> tuple[str, ...]:
    """A sentence for every setting whose best rate is the highest or lowest that was tried."""
    return tuple(
        f"{setting.method} {setting.described()}".strip() + f": its best rate, {rate:g}, is the "
        f"{'highest' if rate == max(rates_for(setting.method)) else 'lowest'} that was tried"
        for setting, rate in rates.items()
        if rate in (max(rates_for(setting.method)), min(rates_for(setting.method)))
    )


def how_tuned(config: CompareConfig) -> str:
    """The first thing to know of a comparison."""
    if not config.tuned:
        return (
            "Not tuned: every method trained at the rate that it was given (--lr, --method-lr), which may suit one of "
            "them better than another; --tuned finds each one's own."
        )
    return (
        f"Tuned: every setting has its own best of {len(AROUND)} rates, found with seed {SEED} in trainings of "
        f"{config.tune_share:g} of the length, judged on {HELD_OUT:.0%} of the training split."
    )


def _training(config: CompareConfig, setting: Setting, rate: float, name: str) -> TrainConfig:
    share = config.tune_share
    epochs = None if config.steps is not None else share * (config.epochs or DEFAULT_EPOCHS)
    length = {"steps": None if config.steps is None else max(1, round(share * config.steps)), "epochs": epochs}
    changes = setting.training_changes() | length
    out = str(Path(config.out) / "tuning" / name)
    run = config.training(seed=SEED, lr=rate, out=out, training_share=HELD_OUT, **changes)
    return replace(run, save_every=0, eval_every=0, early_stop=0)
