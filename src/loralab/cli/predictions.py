"""The file that `--predictions` means: itself, or the one of the official name in a folder."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from loralab.errors import NotFoundError, SpecError

if TYPE_CHECKING:
    from loralab.tasks.task import Task

PLAIN = "predictions.txt"
"""The file in a folder where the task has no name for it."""


def file_to_write(given: str, task: "Task", split: str) -> Path:
    """Where the outputs of a split go; a folder is one that is there, or is named with a slash at its end."""
    path = Path(given)
    return path / task.outputs.file_names.get(split, PLAIN) if path.is_dir() or _is_named_as_folder(given) else path


def file_to_read(given: str, task: "Task") -> Path:
    """Where outputs are. Raises NotFoundError and SpecError for a folder that holds none or several of the task's."""
    path = Path(given)
    if not path.is_dir():
        return path
    names = dict.fromkeys([*task.outputs.file_names.values(), PLAIN])
    there = [path / name for name in names if (path / name).is_file()]
    if not there:
        raise NotFoundError(f"--predictions {path}: the folder holds none of {', '.join(names)}; name the file itself")
    if len(there) > 1:
        raise SpecError(f"--predictions {path}: the folder holds {' and '.join(map(str, there))}; name one of them")
    return there[0]


def _is_named_as_folder(given: str) -> bool:
    return given.endswith(tuple(separator for separator in (os.sep, os.altsep) if separator))
