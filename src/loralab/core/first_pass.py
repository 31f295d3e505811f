"""The first forward pass under an adapter, which shows whether its layers are called at all (`watch.py`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from loralab.core.layer import AdaptedLayer, Routing
from loralab.core.names import slots
from loralab.core.watch import Watch
from loralab.errors import TargetError


@dataclass
class FirstPass:
    """Waits for a model's next pass with a live adapter, watches that one, and then looks no more."""

    routing: Routing
    layers: Mapping[str, AdaptedLayer]
    read_past: set[str] = field(default_factory=set)
    """Paths of layers that are called and whose weight is used from outside as well."""
    proven: set[AdaptedLayer] = field(default_factory=set)
    """Layers that a pass has called, so that whatever adapter comes to them acts."""
    handles: list[RemovableHandle] = field(default_factory=list)

    def wait(self, model: nn.Module) -> None:
        """From now on."""
        if not self.handles:
            self.handles = [
                model.register_forward_pre_hook(self._before),
                model.register_forward_hook(self._after, always_call=True),
            ]

    def leave(self) -> None:
        """Look no more."""
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def _before(self, module: nn.Module, args: object) -> None:
        traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
        if self.routing.is_live and not traced:
            self.routing.watch = Watch()

    def _after(self, module: nn.Module, args: object, output: object) -> None:
        watch, self.routing.watch = self.routing.watch, None
        if watch is None or output is None:  # a pass that broke off has shown nothing
            return
        self.leave()
        self.read_past |= {path for path, layer in self.layers.items() if layer in watch.read}
        self._refuse_idle(module, watch)
        self.proven |= {layer for layer in self.layers.values() if layer in watch.called}

    def _refuse_idle(self, model: nn.Module, watch: Watch) -> None:
        """TargetError for layers that cannot act: the model uses their weight, or the one tied to it, without them."""
        idle = {path: layer for path, layer in self.layers.items() if layer not in watch.called and _has_factors(layer)}
        reasons = [f"{path} (the model computes with its weight itself)" for path in idle if idle[path] in watch.read]
        for path, layer in idle.items():
            twins = [] if layer in watch.read else _tied_to(model, layer.base)
            reasons += [f"{path} (the model calls {twins[0]} instead, which has the same weight)"] if twins else []
        if reasons:
            raise TargetError(
                f"an adapter is at {', '.join(reasons)}: the module is never called, so the adapter cannot act; leave "
                "it out of the targets (exclude), or train it in full (modules_to_save)"
            )


def _has_factors(layer: AdaptedLayer) -> bool:
    return any(update.is_low_rank for update in layer.all_updates())


def _tied_to(model: nn.Module, base: nn.Module) -> list[str]:
    """Paths of other modules that hold a weight of this one."""
    own = {id(parameter) for parameter in base._parameters.values() if parameter is not None and parameter.dim() > 1}
    return [
        slot.path
        for slot in slots(model)
        if slot.module is not base and any(id(parameter) in own for parameter in slot.module._parameters.values())
    ]
