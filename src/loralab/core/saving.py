"""What `save_pretrained` does while adapters are on a model: merged it writes plain tensors, live it is refused.

A model that writes itself (transformers', diffusers') would write a live adapter's layers under names that nobody
reads, and be reloaded with fresh weights in their place. So each module that can carries, for as long as an adapter is
on the model, a guard in place of the method of its class; a model around it is refused by its layers (`writer.py`).
Merged layers give plain names themselves (`layer.py`). It knows nothing of files, nor of what the method does.
"""

import inspect
from dataclasses import dataclass
from types import MethodType
from typing import Any

from torch import nn

from loralab.core.adapter import AdapterSet
from loralab.core.layer import AdaptedLayer
from loralab.core.names import base_modules
from loralab.core.writer import METHOD, not_merged
from loralab.errors import AdapterStateError


@dataclass(eq=False)
class SaveGuard:
    """Stands for a module's `save_pretrained`; it is copied and pickled with the module."""

    module: nn.Module
    adapters: AdapterSet

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the class does, where an adapter is merged or none is in this module; else AdapterStateError."""
        if any(isinstance(each, AdaptedLayer) for each in self.module.modules()):
            self._refuse_live()
            self._refuse_packed()
            self._refuse_untied()
        return self._method(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._method)

    @property
    def _method(self) -> MethodType:
        return MethodType(getattr(type(self.module), METHOD), self.module)

    def _refuse_live(self) -> None:
        if self.adapters.routing.merged is None:
            raise AdapterStateError(not_merged(self.module, self.adapters.adapters))

    def _refuse_packed(self) -> None:
        """Of layers that keep their weights in their own form (in four bits) no reader knows the tensors."""
        packed = [type(each).__name__ for each in self.module.modules() if getattr(each, "why_not_merged", "")]
        if packed:
            raise AdapterStateError(
                f"{METHOD} was called on a {type(self.module).__name__} with {len(packed)} layers that are quantised "
                f"({packed[0]}), which no other program reads; load the base unquantised, and write that"
            )

    def _refuse_untied(self) -> None:
        """A configuration says of two tensors that they are one: a merge into one of them parts them."""
        there = {id(tensor) for tensor in (*self.module.parameters(), *self.module.buffers())}
        parted = [each.name for each in self.adapters.originals if id(each.tensor) in there]
        if parted:
            raise AdapterStateError(
                f"{METHOD} was called on a {type(self.module).__name__} whose merge changed one of several modules "
                f"that share a {parted[0]}, and its configuration says that they share it; call unmerge(model) and "
                "loralab.export_merged(model, path), which writes them apart"
            )


def guard_saving(model: nn.Module, adapters: AdapterSet) -> None:
    """Have every module that writes itself carry a guard if and only if there are adapters."""
    for module in base_modules(model):
        if adapters.adapters and callable(getattr(type(module), METHOD, None)):
            module.__dict__[METHOD] = SaveGuard(module, adapters)
        elif isinstance(module.__dict__.get(METHOD), SaveGuard):
            del module.__dict__[METHOD]
