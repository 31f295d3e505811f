"""The cache folder, and folders that appear in it whole or not at all.

It knows nothing of what is put there.
"""

import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from loralab.errors import OutputError
from loralab.files.drafts import draft_folder


def cache_folder() -> Path:
    """`$LORALAB_CACHE`, else `loralab` in `$XDG_CACHE_HOME` or `~/.cache`. It need not exist."""
    chosen = os.environ.get("LORALAB_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "loralab"


def build_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """`folder`, made by `write(draft)` and moved into place if it is not there yet.

    Processes may race: each writes its own draft, the first to finish wins, the others take what it made.
    Raises `OutputError` if the disk is full or the cache folder cannot be written.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with draft_folder(folder.parent, folder.name) as draft:
            write(draft)
            _move_into_place(draft, folder)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"cannot write the cache folder {folder}: {error}; free some space, or set LORALAB_CACHE to another folder"
        ) from error
    return folder


def _move_into_place(draft: Path, folder: Path) -> None:
    """Rename, unless another process was faster: then its folder stands."""
    try:
        os.replace(draft, folder)
    except OSError:
        if not folder.is_dir():
            raise
