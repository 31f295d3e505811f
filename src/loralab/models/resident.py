"""What keeps the memory of a long run where it was after a few steps. It knows nothing of models.

Text comes in many lengths, and each makes tensors of other sizes: the C library's heap fills with holes, and oneDNN
compiles a product for every shape. Both were more than half of what MiniLM's training held after an epoch.
"""

import ctypes
import os
import sys
from functools import cache
from typing import Any


def keep_few_kernels() -> None:
    """Let oneDNN, torch's library for products on a CPU, keep 32 compiled products instead of 1,024.

    Nothing was slower for it. It reads the variable on its first use; one that the user set stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")


def give_back_free_memory() -> None:
    """Return the holes of the C library's heap to the system: milliseconds, where it is glibc's; elsewhere nothing."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
