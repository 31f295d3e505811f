"""The cache folder, and folders that appear in it whole or not at all.

It knows nothing of what is put there.
"""

import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from loralab.errors import OutputError

ABANDONED_SECONDS = 24 * 3600
"""A temporary sibling older than this was left by a killed process."""


def cache_folder() -> Path:
    """`$LORALAB_CACHE`, else `loralab` in `$XDG_CACHE_HOME` or `~/.cache`. It need not exist."""
    chosen = os.environ.get("LORALAB_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "loralab"


def build_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """`folder`, made by `write(temporary sibling)` and moved into place if it is not there yet.

    Processes may race: each writes its own sibling, the first to finish wins, the others take what it made.
    Raises `OutputError` if the disk is full or the cache folder cannot be written.
    """
    if folder.is_dir():
        return folder
    draft = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        _remove_abandoned(folder)
        draft.mkdir(parents=True)
        write(draft)
        _move_into_place(draft, folder)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"cannot write the cache folder {folder}: {error}; free some space, or set LORALAB_CACHE to another folder"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _move_into_place(draft: Path, folder: Path) -> None:
    """Rename, unless another process was faster: then its folder stands."""
    try:
        os.replace(draft, folder)
    except OSError:
        if not folder.is_dir():
            raise


def _remove_abandoned(folder: Path) -> None:
    """Delete the half-written siblings that killed processes left behind."""
    for sibling in folder.parent.glob(f".{folder.name}.*"):
        if time.time() - sibling.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(sibling, ignore_errors=True)
