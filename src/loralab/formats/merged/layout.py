"""From a model's tensors to those of its files, and what an adapter's changes mean for tensors that are shared.

transformers itself says how a model's tensors are called and laid out in files, as `save_pretrained` would write them
(its `revert_weight_conversion`; Mixtral's experts, for one, are a single tensor in the model and many in the files).
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from loralab.errors import NumericsError
from loralab.files.shards import TensorKind
from loralab.formats.merged.changes import Changes, largest
from loralab.formats.merged.held import Held, held_tensors, sharing_names


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
