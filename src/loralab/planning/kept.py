"""What an adapter adds to what its blocks keep for the backward pass: the inputs of what trains, and its own products.

A frozen linear layer needs only W for its backward pass. One that is adapted or trained needs its input as well, which
q, k and v share; LoRA also keeps its r-wide product, a bottleneck its two inner tensors. In bytes. And what is narrow
in an optimizer on projected gradients (methods/projected.py), in elements.
"""

from dataclasses import dataclass
from math import prod

from torch import nn

from loralab.core.adapter import Adapter
from loralab.core.layer import AdaptedLayer
from loralab.core.updates.factors import Factors
from loralab.core.updates.magnitude import Magnitude
from loralab.core.updates.update import WHOLE, Update
from loralab.errors import TargetError
from loralab.methods.adamix_adapter import MixedBottleneckUpdate
from loralab.methods.bottleneck import STYLES, BottleneckUpdate
from loralab.methods.frozen_a import FrozenA
from loralab.methods.prefix.update import PrefixUpdate
from loralab.methods.projected import ProjectedFineTune, projected_weights
from loralab.models.families.aliases import block_paths, embedding_paths, sublayer_outputs
from loralab.nn.dense import dense_shape, is_dense
from loralab.nn.module_names import layer_index
from loralab.planning.shape import FLOAT32, ModelSizes

_GATES = (".gate_proj", ".up_proj")
"""Where gates are computed again, their input is kept for that; torch's attention keeps its output, which o reads."""

Site = tuple[int, str, bool]
"""Block, module around it, and whether it ends a sublayer: what has these in common reads the same input."""


@dataclass(frozen=True)
class Kept:
    """Of all blocks together."""

    inputs: int
    """Inputs of adapted and trained linear layers, and what trained norms keep beyond frozen ones."""
    products: int
    """The adapter's own: x·Aᵀ, dropped inputs, the inside of bottlenecks."""
    first_block: int | None
    """The lowest block that gradients reach; None if they reach none."""


def kept_by(adapter: Adapter, model: nn.Module, shape: ModelSizes, recompute_gates: bool) -> Kept:
    """What this adapter on `model` keeps beyond the frozen blocks' tables."""
    blocks = tuple(f"{path}." for path in block_paths(model))
    inside = {path: layer for path, layer in adapter.layers.items() if path.startswith(blocks)}
    attention, feed_forward = _ends(model)
    kept_anyway = (*(attention if shape.attention == "fused" else ()), *(_GATES if recompute_gates else ()))
    inputs, products = dict[Site, int](), 0
    for path, layer in inside.items():
        update, base = adapter.updates[path], layer.base
        products += _own(update, shape)
        site = _site(path, (*attention, *feed_forward))
        if is_dense(base) and _reads_input(update) and not path.endswith(kept_anyway):
            inputs[site] = shape.positions * dense_shape(base)[1] * shape.size
        elif type(base).__name__.endswith("RMSNorm") and WHOLE in update.replacements():
            inputs[site] = inputs.get(site, 0) + shape.positions * shape.width * FLOAT32
    return Kept(sum(inputs.values()), products, _first_block(adapter, model, inside))


def _own(update: Update, shape: ModelSizes) -> int:
    if isinstance(update, (BottleneckUpdate, MixedBottleneckUpdate)):
        normed = isinstance(update, BottleneckUpdate) and STYLES[update.style].norm != "none"
        inner = update.size * (1 if normed else 2)  # relu's result is also the next layer's input; swish keeps both
        return shape.positions * shape.size * (inner + update.width * (2 if normed else 1))
    deltas = [update.delta_of(part) for part in update.parts]
    pairs = [delta.settled() for delta in deltas]
    ranks = sum(A.shape[-2] for A, _ in pairs)
    made = [pair for pair, delta in zip(pairs, deltas, strict=True) if not isinstance(delta, Factors)]
    composed = sum(A.numel() + B.numel() for A, B in made) * (FLOAT32 + shape.size)  # A and B that are made of others
    stretched = update.magnitude.numel() if isinstance(update, Magnitude) else 0  # the product, which lengths need
    again = 2 * shape.hidden if deltas and deltas[0].recipe.dropout > 0 else 0  # the dropped input, and what fell out
    return shape.positions * shape.size * (ranks + stretched) + composed + again


def _reads_input(update: Update) -> bool:
    trained = any(not isinstance(update.delta_of(part), FrozenA) for part in update.parts)
    return trained or WHOLE in update.replacements()


def _ends(model: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Endings of the paths of the projections that end an attention, and of those that end a feed-forward; none for a
    family that is not known.
    """
    try:
        attention, feed_forward = sublayer_outputs(model)
    except TargetError:
        return (), ()
    return tuple(f".{pattern}" for pattern in attention), tuple(f".{pattern}" for pattern in feed_forward)


def _site(path: str, ends: tuple[str, ...]) -> Site:
    return layer_index(path) or 0, path.rpartition(".")[0], path.endswith(ends)


def _first_block(adapter: Adapter, model: nn.Module, inside: dict[str, AdaptedLayer]) -> int | None:
    """0 where embeddings or a prefix train: every block is above them."""
    embeddings = embedding_paths(model)
    below = [path for path, update in adapter.updates.items() if isinstance(update, PrefixUpdate) or path in embeddings]
    return 0 if below else min((layer_index(path) or 0 for path in inside), default=None)


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
