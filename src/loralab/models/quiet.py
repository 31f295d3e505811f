"""Transformers without its progress bars and reports, for as long as a block lasts.

It knows nothing of models: what transformers would have printed, the caller says itself, in its own words.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loralab.extras import deferred

if TYPE_CHECKING:
    from transformers.utils import logging
else:
    logging = deferred("transformers.utils.logging")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and nothing below an error on stderr inside; the former state is restored after."""
    verbosity = logging.get_verbosity()
    progress_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress_bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
