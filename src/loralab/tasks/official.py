"""The official download of a data set: which file is which split, and what reads it; or the Hub in its place.

It opens no file itself and knows no task.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from loralab.errors import NotFoundError, SpecError
from loralab.tasks.example import Examples

WHOLE_FILE = "all"
"""The one split of a data set that was given as a single file."""


def official_files(task: str, data: str, files: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """split -> its file. `files` has, for each split, the names that its file may have, the official one first.

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
    found = {split: candidates[0] for split, candidates in places.items() if candidates}
    if not found:
        raise NotFoundError(f"task {task}: {path} holds none of {expected}; give their folder as --data")
    return found


def split_readers(
    task: str,
    data: str | None,
    files: Mapping[str, Sequence[str]],
    from_file: Callable[[str, Path], Examples],
    from_hub: Callable[[str], Examples],
) -> dict[str, Callable[[], Examples]]:
    """For each split what reads it, once: `from_file(split, path)` of the files at `data`, `from_hub(split)` without.

    Raises what `official_files` raises.
    """
    if data is None:
        return {split: cache(partial(from_hub, split)) for split in files}
    return {split: cache(partial(from_file, split, path)) for split, path in official_files(task, data, files).items()}


def read_files(task: str, data: str | None, files: Mapping[str, Sequence[str]]) -> tuple[Path, ...]:
    """The files at `data` that `split_readers` reads; none of the Hub's."""
    return () if data is None else tuple(official_files(task, data, files).values())


def refuse_labels(task: str, labels: Sequence[str] | None) -> None:
    """Raises `SpecError` for labels that were given to a task which generates text."""
    if labels is not None:
        raise SpecError(f"task {task} generates text; it has no labels")
