"""The output folder of a tuning: where things are in it, and what it remembers from one rung to the next."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from loralab.errors import OutputError, SpecError
from loralab.experiments.tuning.config import FREE_TO_CHANGE, TuneConfig
from loralab.files.drafts import is_ours
from loralab.files.whole import write_json

_FORMAT = 1


@dataclass(frozen=True)
class TuneFolder:
    """Paths below `--out`."""

    path: Path

    @property
    def record(self) -> Path:
        """tune.json: what is tuned, how far, and what was measured on the way."""
        return self.path / "tune.json"

    @property
    def trials(self) -> Path:
        """A run's folder for each trial."""
        return self.path / "trials"

    @property
    def best(self) -> Path:
        """The best trial's run, as any other run's folder."""
        return self.path / "best"

    @property
    def again(self) -> Path:
        """Where the command that makes the best one again writes."""
        return self.path / "again"

    @property
    def results(self) -> Path:
        """results.json: the answer."""
        return self.path / "results.json"

    @property
    def table(self) -> Path:
        """table.md: the same for people."""
        return self.path / "table.md"


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
    """Where the tuning in the folder stands, or None if it is new or empty.

    Raises OutputError for a folder that holds something else, SpecError listing how the tuning there differs.
    """
    if not folder.record.is_file():
        if folder.path.exists() and (not folder.path.is_dir() or any(_foreign(folder))):
            raise OutputError(f"{folder.path} is not empty and holds no tuning to go on with; choose another --out")
        return None
    record = json.loads(folder.record.read_text(encoding="utf-8"))
    changed = _differences(_plain(config), record["config"])
    if changed:
        raise SpecError(
            f"{folder.path} holds another tuning: {'; '.join(changed)}; give the same flags to go on with it, choose "
            "another --out, or begin anew with --overwrite"
        )
    return TuneState(**record["state"])


def record_state(folder: TuneFolder, config: TuneConfig, state: TuneState) -> None:
    """Write down where the tuning stands."""
    write_json(folder.record, {"format": _FORMAT, "config": _plain(config), "state": asdict(state)})


def clear(folder: TuneFolder) -> None:
    """Take away what an earlier tuning wrote."""
    for place in (folder.trials, folder.best):
        shutil.rmtree(place, ignore_errors=True)
    for file in (folder.record, folder.results, folder.table, *folder.path.glob("*.png")):
        file.unlink(missing_ok=True)


def _foreign(folder: TuneFolder) -> Iterator[Path]:
    """What is in the folder that a tuning which never began did not leave."""
    return (each for each in folder.path.iterdir() if not is_ours(each.name))


def _plain(config: TuneConfig) -> dict[str, Any]:
    """The configuration as JSON gives it back."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return content


def _differences(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """What is not as it was. A flag that a loralab of then did not have was at its default."""
    defaults = {each.name: each.default for each in fields(TuneConfig) if each.default is not MISSING}
    before = json.loads(json.dumps(defaults)) | before
    return [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in dict.fromkeys((*now, *before))
        if name not in FREE_TO_CHANGE and now.get(name) != before.get(name)
    ]
