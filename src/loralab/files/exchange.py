"""Two paths of one file system that change places in one step, so that each is there at every moment.

Linux alone has such a call (renameat2 with RENAME_EXCHANGE, https://man7.org/linux/man-pages/man2/rename.2.html), and
not for every file system: macOS, Windows, NFS and some FUSE ones do without.
"""

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

_EXCHANGE = 2
_CURRENT_FOLDER = -100


def _found() -> Any:
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None


_RENAME = _found()


def exchange(left: Path, right: Path) -> bool:
    """Let them change places; False, and both as they were, where the system or the file system cannot do that."""
    if _RENAME is None:
        return False
    sys.audit("os.rename", str(left), str(right), -1, -1)  # as os.rename has it
    done: int = _RENAME(_CURRENT_FOLDER, os.fsencode(left), _CURRENT_FOLDER, os.fsencode(right), _EXCHANGE)
    return done == 0
