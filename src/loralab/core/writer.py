"""Which module is writing itself at this moment, seen from a layer whose tensors it asks for.

An adapter may be on a part of a model, and the whole is then nobody we know: it carries no guard (`saving.py`), is
perhaps made later, and asks the adapted layers for their tensors like any other. Only the call that is under way tells
a `save_pretrained`, whose files have no place for an adapter, from a training's own checkpoint.
"""

import sys
from collections.abc import Iterable
from types import FrameType

from torch import nn

METHOD = "save_pretrained"


def module_that_writes() -> nn.Module | None:
    """The outermost module whose `save_pretrained` is running, in the thread of the caller."""
    found: nn.Module | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == METHOD and isinstance(frame.f_locals.get("self"), nn.Module):
            found = frame.f_locals["self"]
        frame = frame.f_back
    return found


def not_merged(module: nn.Module, names: Iterable[str]) -> str:
    """What is wrong with writing this module, and what to call."""
    return (
        f"{METHOD} was called on a {type(module).__name__} with adapters that are not merged ({', '.join(names)}), and "
        "a model's files have no place for them. Call loralab.save(adapter, path) for the adapter alone, "
        "loralab.export_merged(model, path) for the model with it merged, loralab.merge(model) before this, or "
        'loralab.detach(model) for the base. Under transformers\' Trainer set save_strategy="no" and save the adapter '
        "after training"
    )


def not_merged_in_it(module: nn.Module, names: Iterable[str]) -> str:
    """The same of a module that holds the model which the adapters are on."""
    return (
        f"{METHOD} was called on a {type(module).__name__}, a part of which has adapters that are not merged "
        f"({', '.join(names)}), and a model's files have no place for them. Call loralab.save(adapter, path) for the "
        "adapter alone; for the whole, loralab.merge(part) before this, with the part that the adapter was put on, or "
        "loralab.detach(part) for the base. What was written before this error is no whole model"
    )
