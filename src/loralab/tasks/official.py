"""The official download of a data set on disk: which file is which split. It opens none and knows no task."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from loralab.errors import NotFoundError

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
