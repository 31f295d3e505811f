"""The output folder of a comparison: where things are in it, when it may be used, and that one uses it at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from loralab.errors import OutputError
from loralab.experiments.comparison.cells import Setting
from loralab.experiments.comparison.config import FREE_TO_CHANGE, CompareConfig
from loralab.experiments.folder import earlier_record, plain
from loralab.files.inside import Inside
from loralab.files.locks import try_lock
from loralab.files.whole import whole_changes, write_json

_FORMAT = 1


@dataclass(frozen=True)
class ComparisonFolder:
    """Paths below `--out`."""

    path: Path

    record = Inside("comparison.json")
    """What is compared."""
    cells = Inside("cells")
    """A folder per cell; beside each its configuration (.toml) and what it said (.log)."""
    tuning = Inside("tuning")
    """The same for the trainings that looked for rates."""
    results = Inside("results.json")
    """Rows and claims."""
    table = Inside("table.md")
    """The same for people."""
    lock = Inside("lock")
    """Held while a comparison, or a training that it left behind, is at work here."""


def earlier_settings(folder: ComparisonFolder, config: CompareConfig) -> list[Setting] | None:
    """The settings of the comparison that the folder holds, or None if it is new or empty; raises what `earlier_record`
    raises."""
    record = earlier_record(folder.record, "comparison", config, FREE_TO_CHANGE, own=[folder.lock.name])
    return None if record is None else [Setting(**each) for each in record["settings"]]


def record_settings(folder: ComparisonFolder, config: CompareConfig, settings: list[Setting]) -> None:
    """Make the folder this comparison's."""
    content = {"format": _FORMAT, "config": plain(config), "settings": [asdict(each) for each in settings]}
    write_json(folder.record, content)


def clear(folder: ComparisonFolder) -> None:
    """Take away what an earlier comparison wrote. Raises OutputError while one is at work there."""
    with held(folder), whole_changes(folder.path) as changes:
        pictures = (each.name for each in folder.path.glob("*.png"))
        own = (folder.cells, folder.tuning, folder.record, folder.results, folder.table)
        changes.remove(*(each.name for each in own), *pictures)


def of_cell(folder: ComparisonFolder, name: str) -> ComparisonFolder:
    """Where one cell is alone, beside others that are at work in the same comparison: only its lock is used."""
    return ComparisonFolder(folder.path / "locks" / name)


@contextmanager
def held(folder: ComparisonFolder) -> Iterator[int]:
    """Hold the folder's lock; gives its descriptor, through which a training started here holds it too.

    So a training whose comparison was killed keeps the folder until it ends. Raises OutputError if it is held.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if try_lock(descriptor) is False:
            process = folder.lock.read_text(encoding="utf-8").strip() or "unknown"
            raise OutputError(
                f"{folder.path} is in use: a comparison there, or a training that it left behind (process {process}), "
                "has not ended; wait for it or end it"
            )
        yield descriptor
    finally:
        os.close(descriptor)


def note_process(descriptor: int, process: int) -> None:
    """Write into the lock which process is at work."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{process}\n".encode(), 0)
