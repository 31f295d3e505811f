"""The run's output folder: where things are in it, and when a run may use it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loralab.errors import NotFoundError, OutputError, SpecError
from loralab.files.commit import settle
from loralab.files.drafts import cannot_write, is_vacant, remove_abandoned
from loralab.files.inside import Inside
from loralab.files.locks import locked
from loralab.files.names import CHECKPOINTS_NAME, PLAIN_NAME, RUN_NAME, SAVED, TENSORBOARD_NAME
from loralab.files.whole import whole_changes
from loralab.models.processor_names import processor_files
from loralab.training.config import TrainConfig


@dataclass(frozen=True)
class RunFolder:
    """Paths below `--out`."""

    path: Path

    record = Inside(RUN_NAME)
    """What was run, on what, and what came of it."""
    metrics = Inside("metrics.jsonl")
    """A line per step and per evaluation."""
    samples = Inside("samples.jsonl")
    """What the model says to a few held-out examples."""
    tensorboard = Inside(TENSORBOARD_NAME)
    """TensorBoard's event files."""
    curves = Inside("curves.png")
    checkpoints = Inside(CHECKPOINTS_NAME)
    """For resuming."""

    @classmethod
    def of(cls, config: TrainConfig) -> "RunFolder":
        """The one that the configuration names."""
        return cls(Path(config.out))

    def read_record(self) -> dict[str, Any]:
        """The content of run.json."""
        content: dict[str, Any] = json.loads(self.record.read_text(encoding="utf-8"))
        return content


@contextmanager
def occupied(config: TrainConfig) -> Iterator[RunFolder]:
    """Within this block the folder is this run's alone. Raises what `claim` raises: another run may have come first."""
    place = Path(config.out)
    made = not place.exists()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise cannot_write(place, problem) from problem
    try:
        with locked(place):
            yield claim(config)
    finally:
        if made:
            with suppress(OSError):
                place.rmdir()  # only where nothing came of it


def claim(config: TrainConfig) -> RunFolder:
    """The folder for this run, or an error if it holds something else; nothing of its content is changed.

    Raises OutputError for a folder that is not empty (without resume or overwrite) or in use, NotFoundError for nothing
    to resume, SpecError listing how a resumed run differs from the one before.
    """
    folder = RunFolder.of(config)
    if folder.path.exists() and not folder.path.is_dir():
        raise OutputError(f"{folder.path} was given as the run's folder, but it is a file; choose another --out")
    if folder.path.is_dir():
        _tidy(folder)
    full = folder.path.is_dir() and not is_vacant(folder.path)
    if config.resume:
        if not folder.record.is_file():
            raise NotFoundError(f"nothing to resume: {folder.path} holds no run (no run.json); leave --resume out")
        changed = config.differences(folder.read_record()["config"])
        if changed:
            raise SpecError(
                f"the run in {folder.path} cannot be resumed with another configuration: {'; '.join(changed)}"
            )
    elif full and config.overwrite and not folder.record.is_file():
        raise OutputError(f"{folder.path} is not empty and holds no run of ours to overwrite; choose another --out")
    elif full and not config.overwrite:
        held = "holds another run" if folder.record.is_file() else "is not empty"
        raise OutputError(f"{folder.path} {held}; choose another --out, or give --resume or --overwrite")
    return folder


def without_auto(config: TrainConfig) -> TrainConfig:
    """The configuration with `resume` settled: auto goes on where the folder holds a run, and begins one elsewhere."""
    if config.resume != "auto":
        return config
    return replace(config, resume=RunFolder.of(config).record.is_file())


def _tidy(folder: RunFolder) -> None:
    """What a killed process left is finished or removed. Raises OutputError while another one is at work there."""
    with locked(folder.path):
        settle(folder.path)
        for each in (folder.path, folder.checkpoints):
            remove_abandoned(each)


def clear(folder: RunFolder, record: str) -> None:
    """Make the folder that of a run whose run.json is `record`: what an earlier one wrote there goes, nothing else."""
    files = (folder.record, folder.metrics, folder.samples, folder.curves, folder.tensorboard, folder.checkpoints)
    with whole_changes(folder.path, RUN_NAME) as changes:
        changes.remove(PLAIN_NAME, *SAVED, *processor_files(), *(each.name for each in files))
        (changes.new / RUN_NAME).write_text(record, encoding="utf-8")
