"""loralab: the workbench for low-rank adaptation.

`__init__.pyi` is the public API: every name once, as type checkers and editors read it. Nothing happens at import: a
name is loaded from its module when it is first used, so that `import loralab` (and the command line's `--help`) does
not wait for torch.
"""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

_PAGE = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_HOME = {name: module for module, name in re.findall(r"^from (\S+) import (\w+) as \2$", _PAGE, re.MULTILINE)}
"""Public name -> its module."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'loralab' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
