"""Regular expressions that a folder's configuration holds, held against paths of modules.

Anybody may have written them, and some take Python's `re` years: here each has a second for a path.
"""

import reprlib
from typing import Any

import regex

from loralab.errors import AdapterFileError
from loralab.files.names import CONFIG_NAME

SECONDS = 1.0


def match_start(expression: str, path: str) -> Any:
    """The match at the beginning of the path, or None. Raises AdapterFileError where it takes too long."""
    return _match(regex.match, expression, path)


def matches_whole(expression: str, path: str) -> bool:
    """Whether the expression matches all of the path. Raises AdapterFileError where it takes too long."""
    return _match(regex.fullmatch, expression, path) is not None


def _match(by: Any, expression: str, path: str) -> Any:
    try:
        return by(expression, path, timeout=SECONDS)
    except TimeoutError as problem:
        raise AdapterFileError(
            f"the expression {reprlib.repr(expression)} in {CONFIG_NAME} takes longer than {SECONDS:g} s to match "
            f"{path!r}; name the modules in a list instead"
        ) from problem
    except regex.error as problem:
        raise AdapterFileError(
            f"{reprlib.repr(expression)} in {CONFIG_NAME} is not a valid regular expression ({problem}); correct it"
        ) from problem
