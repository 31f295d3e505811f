"""What one adapter does to a model's tensors, by plain name: a difference to add, or a value to take instead.

Differences are computed anew whenever they are asked for and kept for one module only, so that merging a large model
holds no more than that. Knows nothing of files.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from loralab.core.adapter import adapters_of
from loralab.core.mergeable import refuse_unmergeable
from loralab.core.names import unwrapped
from loralab.core.updates.tokens import TokenUpdate
from loralab.core.updates.update import Update
from loralab.errors import NumericsError
from loralab.files.tensor_checks import listed
from loralab.formats.merged.held import Held


@dataclass
class Changes:
    """The changes that the adapter `name` makes, all of them finite."""

    name: str
    places: dict[str, tuple[Update, nn.Module, str]] = field(default_factory=dict)
    """Plain name → the update, the module that it is at, and the tensor's name within that module."""
    largest: float = 0.0
    """The largest absolute value of any difference: 0 for an adapter that was never trained."""
    _module: nn.Module | None = None
    _differences: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, name: str, held: dict[str, Held]) -> "Changes":
        """Look at everything once; raises NumericsError naming all tensors with NaN or infinity."""
        adapters = adapters_of(model)
        refuse_unmergeable(adapters.adapter(name))
        changes, spoilt = cls(name), []
        for path, update in adapters.adapter(name).updates.items():
            base = unwrapped(adapters.layers[path])
            for local, tensor in {**changes._of_module(update, base), **update.replacements()}.items():
                full = f"{path}.{local}"
                if full not in held:  # a buffer that no state dict holds
                    continue
                changes.places[full] = update, base, local
                new = tensor.detach()
                change = largest(new - held[full].tensor) if local in update.replacements() else largest(new)
                changes.largest = max(changes.largest, change)
                if not math.isfinite(change):
                    spoilt.append(full)
        if spoilt:
            raise NumericsError(f"adapter '{name}' would merge NaN or infinite values into: {listed(spoilt)}")
        return changes

    def replaces(self, full: str) -> bool:
        """Whether this tensor is taken from the adapter as it is, instead of having a difference added."""
        update, _, local = self.places[full]
        return local in update.replacements()

    def led_by(self, full: str) -> str:
        """The name of the tensor whose change is this one's: another's where rows are shared with a tied module."""
        update, _, local = self.places[full]
        return f"{update.follows}.{local}" if isinstance(update, TokenUpdate) and update.follows else full

    def tensor(self, full: str) -> Tensor:
        """The difference ΔW, in float32 or wider, or the value to take instead."""
        update, base, local = self.places[full]
        if self.replaces(full):
            return update.replacements()[local].detach()
        return self._of_module(update, base)[local]

    def _of_module(self, update: Update, base: nn.Module) -> dict[str, Tensor]:
        if self._module is not base:
            with torch.no_grad():
                self._differences = update.deltas(base)
            self._module = base
        return self._differences


def largest(tensor: Tensor) -> float:
    """The largest absolute value; NaN or infinite if any value is."""
    if not tensor.numel():
        return 0.0
    low, high = tensor.aminmax()
    return float(torch.maximum(low.abs(), high.abs()))
