"""A chat template at work within limits of time and memory: it is code, and comes with a tokenizer of anybody's.

Jinja's sandbox keeps it from everything but its own loops, which may be endless or fill the memory. Here every line of
it is counted against both. One step alone cannot be stopped: a power, which can take years, is refused beforehand.
"""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import psutil
from jinja2 import TemplateError

from loralab.errors import DataError

SECONDS = 5.0
"""For one conversation; the longest template that is known takes a few milliseconds."""
BYTES = 2**30
"""By which the process may grow meanwhile."""
_BETWEEN = 0.005
"""Seconds."""
_TEMPLATE = "<template>"
"""What jinja2 calls the file of a template that comes as a text."""

TEMPLATE_ERRORS = (
    *(TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError),
)
"""What a template raises: Jinja's errors, and those of Python for what its expressions do wrong."""


class TooMuch(TemplateError):
    """A template went on for too long, or took too much memory."""


class _Limits:
    """Those of one conversation, from now on."""

    def __init__(self) -> None:
        self.began = self.looked = time.monotonic()
        self.held = _held()

    def check(self) -> None:
        """TooMuch where they are overstepped. The memory is looked at now and then: to fill a gigabyte takes longer."""
        now = time.monotonic()
        if now - self.looked < _BETWEEN:
            return
        self.looked = now
        if now - self.began > SECONDS:
            raise TooMuch(f"it takes longer than {SECONDS:g} s; it may loop without end")
        if _held() - self.held > BYTES:
            raise TooMuch(f"it takes more than {BYTES >> 30} GB of memory")


def _held() -> int:
    """Bytes of memory that this process has."""
    return int(psutil.Process().memory_info().rss)


@contextmanager
def limited() -> Iterator[None]:
    """TooMuch for a template that is rendered within this block and goes beyond the limits."""
    limits = _Limits()

    def hear(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != _TEMPLATE:
            return None
        limits.check()
        return hear

    before = sys.gettrace()
    sys.settrace(hear)
    try:
        yield
    finally:
        sys.settrace(before)


def refuse_powers(template: str) -> None:
    """DataError for a template that raises something to a power."""
    pieces = (_TEXTS.sub("''", piece) for piece in _EXPRESSIONS.findall(template))
    if any(_POWER.search(piece) for piece in pieces):
        raise DataError(
            "the chat template raises a number to a power (**), which can take years and no published template does; "
            "set the tokenizer's chat_template to one without"
        )


_EXPRESSIONS = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
_TEXTS = re.compile(r"'[^']*'|\"[^\"]*\"")
_POWER = re.compile(r"[\w)\]}']\s*\*\*")
"""And not the `**` before the arguments of a call."""
