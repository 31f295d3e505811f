"""The output folder of a tuning: where things are in it, and what it remembers from one rung to the next."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from loralab.experiments.folder import earlier_record, plain
from loralab.experiments.tuning.config import FREE_TO_CHANGE, TuneConfig
from loralab.files.inside import Inside
from loralab.files.whole import write_json

_FORMAT = 1
_OF_A_TRIAL = ("losses", "metrics", "reached", "stopped")
"""What a state has of each trial."""


@dataclass(frozen=True)
class TuneFolder:
    """Paths below `--out`."""

    path: Path

    record = Inside("tune.json")
    """What is tuned, how far, and what was measured on the way."""
    trials = Inside("trials")
    """A run's folder for each trial."""
    judged = Inside("judged")
    """What the workers of a cluster measured, a file for each trial."""
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
    dtype: str | None = None
    """Of the base, as the first process chose it; None in the records of a loralab that kept none."""

    def note(self, sentence: str) -> None:
        """Something to be said beside the results, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)


def earlier_state(folder: TuneFolder, config: TuneConfig) -> TuneState | None:
    """Where the tuning in the folder stands, or None if it is new or empty; raises what `earlier_record` raises."""
    record = earlier_record(folder.record, "tuning", config, FREE_TO_CHANGE)
    return None if record is None else TuneState(**record["state"])


def record_state(folder: TuneFolder, config: TuneConfig, state: TuneState) -> None:
    """Write down where the tuning stands."""
    write_json(folder.record, {"format": _FORMAT, "config": plain(config), "state": asdict(state)})


def record_judgement(folder: TuneFolder, state: TuneState, trial: str) -> None:
    """Write down what the state has of one trial, for another process, which takes it with `take_judgements`."""
    folder.judged.mkdir(parents=True, exist_ok=True)
    write_json(folder.judged / f"{trial}.json", {name: getattr(state, name).get(trial) for name in _OF_A_TRIAL})


def take_judgements(
    folder: TuneFolder, state: TuneState, trials: Iterable[str], record: Callable[[], None] | None = None
) -> None:
    """Let the state have what other processes wrote down of these trials. With `record`, which writes the state down,
    it is taken away from there."""
    found = [place for trial in trials if (place := folder.judged / f"{trial}.json").is_file()]
    for place in found:
        judged = json.loads(place.read_text(encoding="utf-8"))
        for name in _OF_A_TRIAL:
            if judged[name] is not None:
                getattr(state, name)[place.stem] = judged[name]
    if found and record is not None:
        record()
        for place in found:
            place.unlink()


def clear(folder: TuneFolder) -> None:
    """Take away what an earlier tuning wrote."""
    for place in (folder.trials, folder.judged, folder.best):
        shutil.rmtree(place, ignore_errors=True)
    for file in (folder.record, folder.results, folder.table, *folder.path.glob("*.png")):
        file.unlink(missing_ok=True)
