"""How many parameters an adapter trains, the task's head apart: the one way in which all methods are counted."""

from dataclasses import dataclass

from torch import nn

from loralab.core.adapter import Adapter
from loralab.models.nf4 import quantized_layers


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters."""

    method: int
    """Trained by the method."""
    head: int
    """Trained in full as the task's head, which the paper never counts."""
    base: int
    """Of the base model; a quantised weight counts as what it stands for."""

    @property
    def trained(self) -> int:
        """Method and head."""
        return self.method + self.head


def frozen_stored(adapter: Adapter) -> int:
    """How many numbers an adapter's file holds beside those that train: VeRA's projections, PiSSA's starting point."""
    shared = () if adapter.shared is None else adapter.shared.stored()
    extra = sum(tensor.numel() for _, tensor in shared if not isinstance(tensor, nn.Parameter))
    for update in adapter.updates.values():
        written = update.stored_form()
        for part in update.parts:
            held = sum(tensor.numel() for _, tensor in written.delta_of(part).stored())
            extra += held - sum(p.numel() for p in update.delta_of(part).parameters(recurse=False))
    return extra


def parameter_counts(adapter: Adapter, model: nn.Module) -> Counts:
    """The counts of this adapter on `model`, on which it is attached; a tensor that is shared counts once."""
    head = sum(p.numel() for name, p in adapter.named_parameters() if adapter.in_head(name))
    trained = sum(p.numel() for p in adapter.parameters())
    everybody = {id(p) for other in adapter.layers.values() for p in other.updates.parameters()}
    packed = list(quantized_layers(model))
    everybody |= {id(p) for layer in packed for name, p in layer.named_parameters() if name != "bias"}
    base = sum(p.numel() for p in model.parameters() if id(p) not in everybody)
    base += sum(layer.weights for layer in packed)
    return Counts(trained - head, head, base)
