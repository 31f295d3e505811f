"""Where the prompts of a batch end: what a method that puts something behind the prompt has to be told.

The model's own inputs do not say it (a training example is prompt and target in one row), so whoever knows says it
around the call.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_ends: ContextVar[Tensor | None] = ContextVar("prompt_ends", default=None)


@contextmanager
def prompts_end_at(ends_B: Tensor | None) -> Iterator[None]:
    """Within this, sequence b of the batch has its prompt in the first `ends_B[b]` positions of its row.

    None: a row's prompt is all of it.
    """
    token = _ends.set(ends_B)
    try:
        yield
    finally:
        _ends.reset(token)


def prompt_ends() -> Tensor | None:
    """What was said last, [B], or None."""
    return _ends.get()


def ends_before_targets(labels_BT: Tensor, ignored: int) -> Tensor:
    """From labels, `ignored` where there is no target: the position of each row's first target (all T if none)."""
    targets = labels_BT != ignored
    first_B = targets.int().argmax(1)
    return first_B.where(targets.any(1), labels_BT.shape[1])
