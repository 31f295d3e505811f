"""A model's own tensors by their plain names, beneath adapters and wrappers, and which names share one tensor.

Knows nothing of files and nothing of what adapters do.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from loralab.core.names import slots, unwrapped


@dataclass(frozen=True)
class Held:
    """A parameter or persistent buffer: the tensor, the module that holds it and the name it has there."""

    tensor: Tensor
    owner: nn.Module
    leaf: str

    @property
    def place(self) -> tuple[int, str]:
        """The same for all names of one place (a module may hang in several), different for tied tensors."""
        return id(self.owner), self.leaf


def held_tensors(model: nn.Module) -> dict[str, Held]:
    """Every name in the model's plain state dict → what is held there."""
    inner = unwrapped(model)
    found = {leaf: Held(tensor, inner, leaf) for leaf, tensor in _own(inner)}
    for slot in slots(model):
        for leaf, tensor in _own(slot.module):
            found[f"{slot.path}.{leaf}"] = Held(tensor, slot.module, leaf)
    return found


def sharing_names(held: Mapping[str, Held]) -> dict[str, list[str]]:
    """Name → all names of the very same tensor, itself included."""
    by_tensor: dict[int, list[str]] = {}
    for name, each in held.items():
        by_tensor.setdefault(id(each.tensor), []).append(name)
    return {name: names for names in by_tensor.values() for name in names}


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    passing = module._non_persistent_buffers_set
    for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and leaf not in passing:
            yield leaf, tensor
