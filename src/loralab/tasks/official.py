"""The official download of a data set: which file is which split, and what reads it; or the Hub in its place."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from loralab.errors import NotFoundError, SpecError
from loralab.tasks.example import Examples
from loralab.tasks.task import Task

WHOLE_FILE = "all"
"""The one split of a data set that was given as a single file."""


FileNames = Mapping[str, Sequence[str]]
"""split -> the names that its file may have, the official one first."""

Read = tuple[Callable[[str, Path], Examples], Callable[[str], Examples]]
"""What gives the examples of a split: of its file, and of the Hub."""


def official_task(
    name: str,
    data: str | None,
    labels: Sequence[str] | None,
    files: FileNames,
    read: Read,
    metrics: tuple[str, ...],
    **more: Any,
) -> Task:
    """A task of text to be written, from the official files at `data`, or from the Hub without it.

    Raises what `official_files` raises, and `SpecError` for labels.
    """
    refuse_labels(name, labels)
    paths = () if data is None else tuple(official_files(name, data, files).values())
    return Task(name, "generation", split_readers(name, data, files, *read), metrics, files=paths, **more)


def official_files(task: str, data: str, files: FileNames) -> dict[str, Path]:
    """split -> its file.

    A folder has the splits whose file is in it, in the order of `files`; a single file, whatever its name, is the
    split `WHOLE_FILE`. Raises `NotFoundError` for a path that is not there, or a folder that holds none of the files.
    """
    path = Path(data)
    if path.is_file():
        return {WHOLE_FILE: path}
    expected = ", ".join(names[0] for names in files.values())
    if not path.is_dir():
        raise NotFoundError(f"task {task}: no folder {path}; give the folder with {expected} as --data")
    places = {split: [path / name for name in names if (path / name).is_file()] for split, names in files.items()}
    paths = {split: candidates[0] for split, candidates in places.items() if candidates}
    if not paths:
        raise NotFoundError(f"task {task}: {path} holds none of {expected}; give their folder as --data")
    return paths


def split_readers(
    task: str,
    data: str | None,
    files: FileNames,
    from_file: Callable[[str, Path], Examples],
    from_hub: Callable[[str], Examples],
) -> dict[str, Callable[[], Examples]]:
    """For each split what reads it, once: `from_file(split, path)` of the files at `data`, `from_hub(split)` without.

    Raises what `official_files` raises.
    """
    if data is None:
        return {split: cache(partial(from_hub, split)) for split in files}
    return {split: cache(partial(from_file, split, path)) for split, path in official_files(task, data, files).items()}


def refuse_labels(task: str, labels: Sequence[str] | None) -> None:
    """Raises `SpecError` for labels that were given to a task which generates text."""
    if labels is not None:
        raise SpecError(f"task {task} generates text; it has no labels")
