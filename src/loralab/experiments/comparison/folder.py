"""The output folder of a comparison: where things are in it, when it may be used, and that one uses it at a time."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from loralab.errors import OutputError, SpecError
from loralab.experiments.comparison.cells import Setting
from loralab.experiments.comparison.config import FREE_TO_CHANGE, CompareConfig
from loralab.files.drafts import is_ours
from loralab.files.whole import whole_changes, write_json

_FORMAT = 1


@dataclass(frozen=True)
class ComparisonFolder:
    """Paths below `--out`."""

    path: Path

    @property
    def record(self) -> Path:
        """comparison.json: what is compared."""
        return self.path / "comparison.json"

    @property
    def cells(self) -> Path:
        """A folder per cell; beside each its configuration (.toml) and what it said (.log)."""
        return self.path / "cells"

    @property
    def tuning(self) -> Path:
        """The same for the trainings that looked for rates."""
        return self.path / "tuning"

    @property
    def results(self) -> Path:
        """results.json: rows and claims."""
        return self.path / "results.json"

    @property
    def table(self) -> Path:
        """table.md: the same for people."""
        return self.path / "table.md"

    @property
    def lock(self) -> Path:
        """Held while a comparison, or a training that it left behind, is at work here."""
        return self.path / "lock"


def earlier_settings(folder: ComparisonFolder, config: CompareConfig) -> list[Setting] | None:
    """The settings of the comparison that the folder holds, or None if it is new or empty.

    Raises OutputError for a folder that holds something else, SpecError listing how the comparison there differs.
    """
    if not folder.record.is_file():
        if folder.path.exists() and (not folder.path.is_dir() or any(_foreign(folder))):
            raise OutputError(f"{folder.path} is not empty and holds no comparison to go on with; choose another --out")
        return None
    record = json.loads(folder.record.read_text(encoding="utf-8"))
    changed = _differences(_plain(config), record["config"])
    if changed:
        raise SpecError(
            f"{folder.path} holds another comparison: {'; '.join(changed)}; give the same flags to go on with it, "
            "choose another --out, or begin anew with --overwrite"
        )
    return [Setting(**each) for each in record["settings"]]


def record_settings(folder: ComparisonFolder, config: CompareConfig, settings: list[Setting]) -> None:
    """Make the folder this comparison's."""
    content = {"format": _FORMAT, "config": _plain(config), "settings": [asdict(each) for each in settings]}
    write_json(folder.record, content)


def clear(folder: ComparisonFolder) -> None:
    """Take away what an earlier comparison wrote. Raises OutputError while one is at work there."""
    with held(folder), whole_changes(folder.path) as changes:
        pictures = (each.name for each in folder.path.glob("*.png"))
        own = (folder.cells, folder.tuning, folder.record, folder.results, folder.table)
        changes.remove(*(each.name for each in own), *pictures)


@contextmanager
def held(folder: ComparisonFolder) -> Iterator[int]:
    """Hold the folder's lock; gives its descriptor, through which a training started here holds it too.

    So a training whose comparison was killed keeps the folder until it ends. Raises OutputError if it is held.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    except BlockingIOError as error:
        process = folder.lock.read_text(encoding="utf-8").strip() or "unknown"
        raise OutputError(
            f"{folder.path} is in use: a comparison there, or a training that it left behind (process {process}), has "
            "not ended; wait for it or end it"
        ) from error
    finally:
        os.close(descriptor)


def note_process(descriptor: int, process: int) -> None:
    """Write into the lock which process is at work."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{process}\n".encode(), 0)


def _foreign(folder: ComparisonFolder) -> Iterator[Path]:
    """What is in the folder that a comparison which never began did not leave."""
    return (each for each in folder.path.iterdir() if each != folder.lock and not is_ours(each.name))


def _plain(config: CompareConfig) -> dict[str, Any]:
    """The configuration as JSON gives it back."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return content


def _differences(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """What is not as it was. A flag that a loralab of then did not have was at its default."""
    defaults = {each.name: each.default for each in fields(CompareConfig) if each.default is not MISSING}
    before = json.loads(json.dumps(defaults)) | before
    return [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in dict.fromkeys((*now, *before))
        if name not in FREE_TO_CHANGE and now.get(name) != before.get(name)
    ]
