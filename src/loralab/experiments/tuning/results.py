"""What a tuning says: every trial, every setting over its seeds, the best one, how to make it again, and what to try
next where the best lies at an end of what was tried.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loralab.experiments.comparison.table import markdown_table
from loralab.experiments.tuning.folder import TuneState
from loralab.experiments.tuning.grid import TunedSetting, TuneTrial


@dataclass(frozen=True)
class TrialResult:
    """One trial."""

    rank: int
    lr: float
    targets: str | None
    seed: int
    steps: int
    """The last that it was measured at."""
    metrics: dict[str, float]
    """Held-out, at that step."""
    stopped: str | None
    """Why it did not train to the end; None for one that did."""
    name: str
    adapter: str
    """Its run's folder; of a stopped one the checkpoints are in it (--checkpoint last)."""


@dataclass(frozen=True)
class TuningRow:
    """One setting, over its seeds."""

    rank: int
    lr: float
    targets: str | None
    label: str
    losses: dict[str, float]
    """Step of a rung -> the mean held-out loss; a setting of which a seed failed has none from there on."""
    spread: float
    """Between the seeds, largest minus smallest, at the last of them."""
    steps: int
    stopped: str | None


@dataclass(frozen=True)
class TuneResult:
    """What came of a tuning."""

    best: dict[str, Any]
    """`rank`, `lr`, `targets`, `seed`, `metrics` and `adapter`, its folder."""
    trials: tuple[TrialResult, ...]
    rows: tuple[TuningRow, ...]
    """The settings, the best first."""
    command: str
    """That trains the best one again, alone."""
    advice: tuple[str, ...]
    """What to try where the best lies at an end of what was tried."""
    base: dict[str, float]
    """The scores of the base on the same held-out examples."""
    steps: int
    """Of a trial that trains to the end."""
    rungs: tuple[int, ...]
    seconds: float
    """Of all processes that worked at it."""
    peak_memory_bytes: int
    notes: tuple[str, ...]
    out: str
    results: str
    table: str
    plots: tuple[str, ...] = ()

    def answer(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


Means = Mapping[TunedSetting, float]


def mean_losses(trials: Sequence[TuneTrial], state: TuneState, rung: int) -> dict[TunedSetting, float]:
    """The mean loss at a rung of every setting that came there with a seed; infinite where another seed did not."""
    losses: dict[TunedSetting, list[float]] = {}
    for trial in trials:
        found = state.losses.get(trial.name, {}).get(str(rung))
        losses.setdefault(trial.setting, []).append(math.inf if found is None else found)
    return {
        setting: sum(each) / len(each) for setting, each in losses.items() if any(math.isfinite(loss) for loss in each)
    }


def rows_of(trials: Sequence[TuneTrial], state: TuneState, rungs: Sequence[int]) -> list[TuningRow]:
    """Every setting: those that came furthest first, and of these the best first."""
    means = {rung: mean_losses(trials, state, rung) for rung in rungs}
    rows = [_row(setting, trials, state, means) for setting in dict.fromkeys(trial.setting for trial in trials)]
    return sorted(rows, key=lambda row: (-row.steps, row.losses.get(str(row.steps), math.inf)))


def _row(
    setting: TunedSetting,
    trials: Sequence[TuneTrial],
    state: TuneState,
    means: Mapping[int, Mapping[TunedSetting, float]],
) -> TuningRow:
    own = [trial.name for trial in trials if trial.setting == setting]
    losses = {str(rung): at[setting] for rung, at in means.items() if math.isfinite(at.get(setting, math.inf))}
    last = max(losses, key=int, default="0")
    found = [state.losses[name][last] for name in own if last in state.losses.get(name, {})]
    why = [state.stopped[name] for name in own if name in state.stopped]
    failed = next((each for each in why if each.startswith("failed")), None)
    return TuningRow(
        rank=setting.rank,
        lr=setting.lr,
        targets=setting.targets,
        label=setting.label,
        losses=losses,
        spread=max(found) - min(found) if found else 0.0,
        steps=int(last),
        stopped=failed or next(iter(why), None),
    )


def markdown(result: TuneResult, title: str) -> str:
    """table.md."""
    head = ["rank", "targets", "lr", *(f"loss at {rung}" for rung in result.rungs), "between seeds", "stopped"]
    rows = [
        [
            str(row.rank), row.targets or "q,v of the family", f"{row.lr:g}",
            *(f"{row.losses[str(rung)]:.4f}" if str(rung) in row.losses else "-" for rung in result.rungs),
            f"{row.spread:.4f}", row.stopped or "-",
        ]
        for row in result.rows
    ]  # fmt: skip
    before = f", of the base {result.base['loss']:.4f}" if "loss" in result.base else ""
    what = (
        f"Held-out loss, mean over the seeds{before}. Every trial has the schedule of a run of {result.steps} steps; "
        "at every rung the worse half of the settings was stopped (successive halving)."
    )
    parts = [f"# {title}, tuned", what, markdown_table(head, rows), *result.advice]
    return "\n\n".join([*parts, "The best one again:", f"```\n{result.command}\n```"]) + "\n"


RANK_STEP = 4


def advice(best: TunedSetting, tried: Sequence[TunedSetting]) -> tuple[str, ...]:
    """Sentences, none where it lies between others."""
    rates = sorted({each.lr for each in tried})
    ranks = sorted({each.rank for each in tried})
    said = []
    if len(rates) > 1 and best.lr == rates[-1]:
        said.append(
            f"The best rate, {best.lr:g}, is the highest that was tried: try --lrs {_rates(best.lr, 1, 3, 10)}."
        )
    elif len(rates) > 1 and best.lr == rates[0]:
        said.append(
            f"The best rate, {best.lr:g}, is the lowest that was tried: try --lrs {_rates(best.lr, 0.1, 0.3, 1)}."
        )
    if len(ranks) > 1 and best.rank == ranks[-1]:
        said.append(
            f"The best rank, {best.rank}, is the highest that was tried: try --ranks "
            f"{best.rank},{RANK_STEP * best.rank}."
        )
    elif len(ranks) > 1 and best.rank == ranks[0] > 1:
        lower = max(1, best.rank // RANK_STEP)
        said.append(
            f"The best rank, {best.rank}, is the lowest that was tried: --ranks {lower},{best.rank} may do too."
        )
    return tuple(said)


def _rates(rate: float, *factors: float) -> str:
    return ",".join(f"{rate * factor:.2g}" for factor in factors)
