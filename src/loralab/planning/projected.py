"""Of an optimizer on projected gradients (methods/projected.py): what is narrow, in elements."""

from dataclasses import dataclass
from math import prod

from torch import nn

from loralab.core.adapter import Adapter
from loralab.methods.projected import ProjectedFineTune, projected_weights


@dataclass(frozen=True)
class Projections:
    """Of all projected weights [m, n] together; all zero for a method that projects none."""

    whole: int = 0
    """m·n: their own size."""
    narrow: int = 0
    """r·n: of their gradients, and of each of Adam's moments."""
    held: int = 0
    """Of the projections themselves."""
    largest: int = 0
    """m·n of the largest one: of full gradients and of casts there is one at a time."""


def projections(adapter: Adapter, model: nn.Module) -> Projections:
    """Of this adapter, attached on `model`."""
    spec = adapter.spec
    if not isinstance(spec, ProjectedFineTune):
        return Projections()
    weights = projected_weights(model, adapter.updates, adapter.heads, spec.rank).values()
    return Projections(
        whole=sum(prod(weight.shape) for weight in weights),
        narrow=sum(weight.rank * weight.shape[1] for weight in weights),
        held=sum(spec.projection_elements(weight) for weight in weights),
        largest=max(prod(weight.shape) for weight in weights),
    )
