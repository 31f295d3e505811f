"""The model's modules under their plain names, seen through wrappers.

`torch.compile`, DDP, FSDP, activation checkpointing and our own adapted layers put a module between a parent
and its child (`_orig_mod`, `module`, …). Everybody in this package names modules as the unwrapped model does,
so that no wrapper's name ever reaches a pattern or a file.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import nn

from loralab.core.layer import AdaptedLayer

_INSIDE = {
    "OptimizedModule": "_orig_mod",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
    "OffloadWrapper": "_checkpoint_wrapped_module",
}


class Slot(NamedTuple):
    """One place where a module hangs: `parent._modules[attribute]` is `held`, inside whose wrappers is `module`."""

    path: str
    module: nn.Module
    held: nn.Module
    parent: nn.Module
    attribute: str


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside any number of compile, DDP, FSDP, checkpoint wrappers and adapted layers."""
    while True:
        if isinstance(module, AdaptedLayer):
            module = module.base
            continue
        inside = _INSIDE.get(type(module).__name__)
        inner = module._modules.get(inside) if inside else None
        if inner is None:
            return module
        module = inner


def inside(path: str, heads: Iterable[str]) -> bool:
    """Whether a module or tensor of this name is one of these modules, or within one."""
    return any(path == head or path.startswith(f"{head}.") for head in heads)


def class_name(module: nn.Module) -> str:
    """The class of a module as the plain model has it: a quantised layer says what it stands for."""
    return str(getattr(module, "stands_for", type(module).__name__))


def slots(model: nn.Module) -> list[Slot]:
    """Every place below `model` in definition order; a module shared by several parents appears once per place."""
    found: list[Slot] = []
    _look_below(unwrapped(model), "", found)
    return found


def _look_below(parent: nn.Module, prefix: str, found: list[Slot]) -> None:
    for attribute, held in parent._modules.items():
        if held is None:
            continue
        module = unwrapped(held)
        found.append(Slot(prefix + attribute, module, held, parent, attribute))
        if module._modules:
            _look_below(module, f"{prefix}{attribute}.", found)


def base_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Every module of the base, each once, without wrappers and without what adapters have put there: a walk takes as
    long with a hundred adapters on the model as with none."""
    yield unwrapped(model)
    seen: set[int] = set()
    for slot in slots(model):
        if id(slot.module) not in seen:
            seen.add(id(slot.module))
            yield slot.module


def modules_by_path(model: nn.Module) -> dict[str, nn.Module]:
    """Plain path → unwrapped module, the first path of a shared module only."""
    first: dict[int, Slot] = {}
    for slot in slots(model):
        first.setdefault(id(slot.module), slot)
    return {slot.path: slot.module for slot in first.values()}


def elsewhere(model: nn.Module, paths: Iterable[str]) -> dict[str, list[str]]:
    """Of those modules that hang in several places: path → the other paths. One parent is one place, however named."""
    places: dict[int, dict[tuple[int, str], str]] = {}
    for slot in slots(model):
        places.setdefault(id(slot.module), {}).setdefault((id(slot.parent), slot.attribute), slot.path)
    every = {path: [*found.values()] for found in places.values() for path in found.values()}
    return {path: others for path in paths if (others := [each for each in every.get(path, ()) if each != path])}


def stacks_in(model: nn.Module) -> frozenset[str]:
    """Names of parameters that stack several matrices, of whichever modules: `gate_up_proj`, `down_proj`."""
    held = (item for module in base_modules(model) for item in module._parameters.items())
    named = {name for name, parameter in held if parameter is not None and parameter.dim() == 3}
    return frozenset(named) - {"weight"}  # a convolution's
