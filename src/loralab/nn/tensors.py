"""The tensors of any module: by name, where they are, and how wide sums with them are."""

from itertools import chain

import torch
from torch import Tensor, nn


def tensor_of(base: nn.Module, name: str) -> Tensor:
    """A parameter or buffer of the module by its dotted name."""
    owner, _, leaf = name.rpartition(".")
    tensor = getattr(base.get_submodule(owner), leaf)
    assert isinstance(tensor, Tensor)
    return tensor


def device_of(module: nn.Module) -> torch.device:
    """Where the module's tensors are: its parameters, or the buffers of one that has only those (a quantised one)."""
    return next(chain(module.parameters(), module.buffers())).device


def wide(tensor: Tensor) -> torch.dtype:
    """The dtype in which sums with this tensor are formed before they are rounded once: at least float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


def has_tensor(module: nn.Module, name: str) -> bool:
    """Whether the module holds a tensor of this dotted name."""
    owner, _, leaf = name.rpartition(".")
    try:
        return isinstance(getattr(module.get_submodule(owner), leaf, None), Tensor)
    except AttributeError:
        return False
