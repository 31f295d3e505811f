"""loralab: the workbench for low-rank adaptation.

`__init__.pyi` is the public API: every name once, as type checkers and editors read it. Nothing happens at import: a
name is loaded from its module when it is first used, so that `import loralab` (and the command line's `--help`) does
not wait for torch.

>>> import torch
>>> import loralab as ll
>>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))  # or any other
>>> ll.attach(model, ll.LoRA(rank=2, targets=["0", "2"]), name="sql")
Adapter('sql': LoRA, rank 2, 2 modules, 84 parameters, live)
>>> model(torch.randn(4, 8)).square().mean().backward()  # and the rest of the loop that you have
>>> with ll.disabled(model):
...     base = model(torch.ones(1, 8))
>>> ll.merge(model).tensors
2
>>> ll.unmerge(model)
>>> ll.detach(model)
>>> torch.equal(model(torch.ones(1, 8)), base)
True
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
