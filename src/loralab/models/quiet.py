"""Transformers without its progress bars and reports, for as long as a block lasts.

It knows nothing of models: what transformers would have printed, the caller says itself, in its own words, and its
bars are told as our own progress. What is downloaded shows the Hub's bars.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from loralab.extras import deferred
from loralab.progress import tracked

if TYPE_CHECKING:
    from huggingface_hub import utils as hub
    from transformers.utils import logging
else:
    hub = deferred("huggingface_hub.utils")
    logging = deferred("transformers.utils.logging")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bars of its own and nothing below an error on stderr inside; the former state is restored after."""
    verbosity = logging.get_verbosity()
    progress_bars = logging.is_progress_bar_enabled()
    of_hub = not hub.are_progress_bars_disabled()  # type: ignore[attr-defined]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if of_hub:
        hub.enable_progress_bars()  # type: ignore[attr-defined]
    before = logging.set_tqdm_hook(_as_ours) if hasattr(logging, "set_tqdm_hook") else None
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if hasattr(logging, "set_tqdm_hook"):
            logging.set_tqdm_hook(before)
        if progress_bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


class _Told:
    """Stands where a bar of tqdm would, over items that can be counted."""

    def __init__(self, items: Collection[Any], what: str) -> None:
        self._items, self._what = items, what

    def __iter__(self) -> Iterator[Any]:
        return tracked(self._items, self._what)

    def __enter__(self) -> "_Told":
        return self

    def __exit__(self, *problem: object) -> None:
        return None

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **named: None


def _as_ours(bar: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """What transformers gets in the place of a bar."""
    items = arguments[0] if arguments else named.get("iterable")
    if not isinstance(items, Collection):
        return bar(*arguments, **named)
    return _Told(items, str(named.get("desc") or "steps").lower().removesuffix(": "))
