"""The output folder of a tuning: where things are in it, and what it remembers from one rung to the next."""

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from loralab.experiments.folder import earlier_record, plain
from loralab.experiments.tuning.config import FREE_TO_CHANGE, TuneConfig
from loralab.files.inside import Inside
from loralab.files.whole import write_json

_FORMAT = 1


@dataclass(frozen=True)
class TuneFolder:
    """Paths below `--out`."""

    path: Path

    record = Inside("tune.json")
    """What is tuned, how far, and what was measured on the way."""
    trials = Inside("trials")
    """A run's folder for each trial."""
    best = Inside("best")
    """The best trial's run, as any other run's folder."""
    again = Inside("again")
    """Where the command that makes the best one again writes."""
    results = Inside("results.json")
    """The answer."""
    table = Inside("table.md")
    """The same for people."""


@dataclass
class TuneState:
    """What a tuning has to remember, also over an interruption."""

    steps: int
    """That the best ones train."""
    base: dict[str, float]
    """The scores of the base alone."""
    notes: list[str]
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
    """Trial -> rung (its step) -> the held-out loss."""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    """Trial -> its last scores."""
    reached: dict[str, int] = field(default_factory=dict)
    """Trial -> the last step that it was measured at, or failed at."""
    stopped: dict[str, str] = field(default_factory=dict)
    """Trial -> why it did not train to the end."""
    seconds: float = 0.0


def earlier_state(folder: TuneFolder, config: TuneConfig) -> TuneState | None:
    """Where the tuning in the folder stands, or None if it is new or empty; raises what `earlier_record` raises."""
    record = earlier_record(folder.record, "tuning", config, FREE_TO_CHANGE)
    return None if record is None else TuneState(**record["state"])


def record_state(folder: TuneFolder, config: TuneConfig, state: TuneState) -> None:
    """Write down where the tuning stands."""
    write_json(folder.record, {"format": _FORMAT, "config": plain(config), "state": asdict(state)})


def clear(folder: TuneFolder) -> None:
    """Take away what an earlier tuning wrote."""
    for place in (folder.trials, folder.best):
        shutil.rmtree(place, ignore_errors=True)
    for file in (folder.record, folder.results, folder.table, *folder.path.glob("*.png")):
        file.unlink(missing_ok=True)
