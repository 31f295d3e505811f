"""From a model's tensors to those of its files, and what an adapter's changes mean for tensors that are shared.

transformers itself says how a model's tensors are called and laid out in files, as `save_pretrained` would write them
(its `revert_weight_conversion`; Mixtral's experts, for one, are a single tensor in the model and many in the files).
Differences are computed anew whenever they are asked for and kept for one module only, so that merging a large model
holds no more than that.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from loralab.core.adapter import adapters_of
from loralab.core.mergeable import refuse_unmergeable
from loralab.core.names import slots, unwrapped
from loralab.core.updates.tokens import TokenUpdate
from loralab.core.updates.update import Update
from loralab.errors import NumericsError, listed
from loralab.files.shards import TensorKind


@dataclass(frozen=True)
class Held:
    """A parameter or persistent buffer of the model: the tensor, the module that holds it and its name there."""

    tensor: Tensor
    owner: nn.Module
    leaf: str

    @property
    def place(self) -> tuple[int, str]:
        """Where it is held: one place may have several names (of a shared module), tied tensors have several places."""
        return id(self.owner), self.leaf


def held_tensors(model: nn.Module) -> dict[str, Held]:
    """Every name in the model's plain state dict → what is held there."""
    inner = unwrapped(model)
    held = {leaf: Held(tensor, inner, leaf) for leaf, tensor in _own(inner)}
    for slot in slots(model):
        for leaf, tensor in _own(slot.module):
            held[f"{slot.path}.{leaf}"] = Held(tensor, slot.module, leaf)
    return held


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


@dataclass
class Changes:
    """What the adapter `name` does to the model's tensors: a difference to add, or a value to take instead."""

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


@dataclass(frozen=True)
class Merging:
    """A model, one of its adapters, and where the two meet."""

    model: PreTrainedModel
    held: Mapping[str, Held]
    changes: Changes
    changed: Mapping[str, str] = field(init=False)
    """Name → the name under which the adapter changes that place, for all names of changed places."""
    sharing: Mapping[str, list[str]] = field(init=False)
    """Name → all names of the very same tensor."""

    def __post_init__(self) -> None:
        places = {self.held[name].place: self.changes.led_by(name) for name in self.changes.places}
        changed = {name: places[each.place] for name, each in self.held.items() if each.place in places}
        object.__setattr__(self, "changed", changed)
        object.__setattr__(self, "sharing", sharing_names(self.held))

    @classmethod
    def of(cls, model: PreTrainedModel, adapter: str) -> "Merging":
        """Computes every change once; raises NumericsError naming all that are NaN or infinite."""
        held = held_tensors(model)
        return cls(model, held, Changes.of(model, adapter, held))

    @cached_property
    def unties(self) -> bool:
        """Whether tensors that the model shares must be written apart, because the adapter changes one of them."""
        return any(len({self.changed.get(name) for name in names}) > 1 for names in self.sharing.values())

    def in_files(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Some of the model's tensors, or differences of them, as they are called and laid out in its files."""
        laid_out: dict[str, Tensor] = revert_weight_conversion(self.model, dict(tensors))
        return laid_out

    def with_change(self, start: Tensor, changed: str, change: Tensor) -> Tensor:
        """A tensor under its change, rounded once to its dtype; NumericsError where that overflows.

        The change replaces it, or is added in float32 or wider.
        """
        merged = change.to(start.dtype) if self.changes.replaces(changed) else add(start, change)
        if not math.isfinite(largest(merged)):
            raise NumericsError(
                f"adapter '{self.changes.name}' merged into {changed} gives NaN or infinite values in {start.dtype}; "
                "the sum is too large for that dtype"
            )
        return merged

    def shapes_in_files(self, *names: str) -> dict[str, tuple[int, ...]]:
        """The shapes of these tensors in the files; nothing is computed."""
        nothing = {name: torch.empty_like(self.held[name].tensor, device="meta") for name in names}
        return {key: tuple(tensor.shape) for key, tensor in self.in_files(nothing).items()}


def main_dtype(kinds: Mapping[str, TensorKind]) -> torch.dtype:
    """The dtype of most of the numbers among floating-point tensors."""
    count: Counter[torch.dtype] = Counter()
    for kind in kinds.values():
        if kind.dtype.is_floating_point:
            count[kind.dtype] += torch.Size(kind.shape).numel()
    return count.most_common(1)[0][0] if count else torch.float32


def add(start: Tensor, difference: Tensor) -> Tensor:
    """W + ΔW rounded once to W's dtype; summed in float32 or wider."""
    width = torch.promote_types(torch.promote_types(start.dtype, difference.dtype), torch.float32)
    return (start.to(width) + difference.to(start.device, width)).to(start.dtype)
