"""The run's output folder: where things are in it, and when a run may use it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loralab.errors import NotFoundError, OutputError, SpecError
from loralab.files.names import CHECKPOINTS_NAME, PLAIN_NAME, RUN_NAME, SAVED, TENSORBOARD_NAME
from loralab.models.processor_names import remove_processor
from loralab.training.config import TrainConfig


@dataclass(frozen=True)
class RunFolder:
    """Paths below `--out`."""

    path: Path

    @classmethod
    def of(cls, config: TrainConfig) -> "RunFolder":
        """The one that the configuration names."""
        return cls(Path(config.out))

    @property
    def record(self) -> Path:
        """run.json: what was run, on what, and what came of it."""
        return self.path / RUN_NAME

    @property
    def metrics(self) -> Path:
        """metrics.jsonl: a line per step and per evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """samples.jsonl: what the model says to a few held-out examples."""
        return self.path / "samples.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / TENSORBOARD_NAME

    @property
    def curves(self) -> Path:
        """curves.png."""
        return self.path / "curves.png"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints for resuming."""
        return self.path / CHECKPOINTS_NAME

    def read_record(self) -> dict[str, Any]:
        """The content of run.json."""
        content: dict[str, Any] = json.loads(self.record.read_text(encoding="utf-8"))
        return content


def claim(config: TrainConfig) -> RunFolder:
    """The folder for this run, or an error if it holds something else; nothing is written or removed yet.

    Raises OutputError for a folder that is not empty (without resume or overwrite), NotFoundError for nothing to
    resume, SpecError listing how a resumed run differs from the one before.
    """
    folder = RunFolder.of(config)
    if folder.path.exists() and not folder.path.is_dir():
        raise OutputError(f"{folder.path} was given as the run's folder, but it is a file; choose another --out")
    occupied = folder.path.is_dir() and any(folder.path.iterdir())
    if config.resume:
        if not folder.record.is_file():
            raise NotFoundError(f"nothing to resume: {folder.path} holds no run (no run.json); leave --resume out")
        changed = config.differences(folder.read_record()["config"])
        if changed:
            raise SpecError(
                f"the run in {folder.path} cannot be resumed with another configuration: {'; '.join(changed)}"
            )
    elif occupied and config.overwrite and not folder.record.is_file():
        raise OutputError(f"{folder.path} is not empty and holds no run of ours to overwrite; choose another --out")
    elif occupied and not config.overwrite:
        held = "holds another run" if folder.record.is_file() else "is not empty"
        raise OutputError(f"{folder.path} {held}; choose another --out, or give --resume or --overwrite")
    return folder


def clear(folder: RunFolder) -> None:
    """Make an empty folder for a run, removing what an earlier run wrote there (and nothing else)."""
    folder.path.mkdir(parents=True, exist_ok=True)
    for written in (folder.tensorboard, folder.checkpoints, folder.path / PLAIN_NAME):
        shutil.rmtree(written, ignore_errors=True)
    for name in SAVED:
        (folder.path / name).unlink(missing_ok=True)
    remove_processor(folder.path)
    for file in (folder.record, folder.metrics, folder.samples, folder.curves):
        file.unlink(missing_ok=True)
