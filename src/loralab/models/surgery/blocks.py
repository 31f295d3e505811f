"""Blocks taken out of a model, or replaced by affine maps of the residual stream; in place, without touching weights.

What counts the blocks follows: the config's number and its lists with an entry for each block, and the index by which
an attention finds its place in the KV cache. It knows models by `families` and by transformers' names for these.

Shapes: B sequences, T tokens, D width of the residual stream.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from loralab.errors import SpecError
from loralab.models.families.aliases import block_paths

INDEX_NAMES = ("layer_idx", "layer_id")
"""What transformers calls a block's number inside its attention."""

Run = tuple[int, int]
"""Neighbouring blocks: the first, and the one after the last."""


class AffineBlock(nn.Module):
    """y = h + h·Dᵀ + c in the place of one or more blocks; attention masks, positions and caches are ignored."""

    def __init__(self, weight_DD: Tensor, bias_D: Tensor, outputs: int = 0) -> None:
        """`outputs` is 0 where blocks of this model return a tensor, else the length of the tuple they return."""
        super().__init__()
        self.weight = nn.Parameter(weight_DD, requires_grad=False)
        self.bias = nn.Parameter(bias_D, requires_grad=False)
        self.outputs = outputs

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        """[B, T, D] to [B, T, D], alone or as the first of a tuple."""
        mapped: Tensor = hidden_states + F.linear(hidden_states, self.weight, self.bias)
        return (mapped, *[None] * (self.outputs - 1)) if self.outputs else mapped


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The model's blocks in order. Raises SpecError unless there is one list of as many as its config says."""
    return _located(model)[2]


def keep_blocks(model: nn.Module, kept: Sequence[int]) -> None:
    """Leave only these blocks, numbers from 0 in rising order; what entered the first of a gap enters the block after.

    Raises SpecError for blocks out of range, or a model whose blocks depend on their number.
    """
    blocks = blocks_of(model)
    if list(kept) != sorted({*kept}) or not kept or not 0 <= kept[0] <= kept[-1] < len(blocks):
        raise SpecError(f"blocks {list(kept)} were to be kept: give some of 0 to {len(blocks) - 1}, in rising order")
    _install(model, [blocks[number] for number in kept], kept)


def replace_blocks(model: nn.Module, replacements: Mapping[Run, AffineBlock]) -> None:
    """Put an affine block in the place of each run of blocks. Raises SpecError as `keep_blocks` does."""
    blocks = blocks_of(model)
    inside = {number for start, end in replacements for number in range(start, end)}
    starts = {start: block for (start, _), block in replacements.items()}
    if len(inside) != sum(end - start for start, end in replacements) or not inside <= set(range(len(blocks))):
        raise SpecError(
            f"runs {sorted(replacements)} are to be replaced: they overlap, or are not within {len(blocks)}"
        )
    sources = [number for number in range(len(blocks)) if number in starts or number not in inside]
    _install(model, [starts.get(number, blocks[number]) for number in sources], sources)


def insert_blocks(model: nn.Module, inserted: Mapping[int, AffineBlock], types: Mapping[int, str | None]) -> None:
    """Put affine blocks at these places of the list as it will be; `types` has their entries of config.layer_types.

    The inverse of dropping what they replace. Raises SpecError as `keep_blocks` does.
    """
    blocks, config = blocks_of(model), _located(model)[0]
    left = iter(range(len(blocks)))
    places = range(len(blocks) + len(inserted))
    if not set(inserted) <= set(places):
        raise SpecError(f"blocks were to be inserted at {sorted(inserted)}, the model would have {len(places)}")
    sources = [-1 if place in inserted else next(left) for place in places]
    modules = [inserted.get(place, blocks[source]) for place, source in zip(places, sources, strict=True)]
    known = getattr(config, "layer_types", None)
    entries = None if known is None else [types.get(p) or known[s] for p, s in zip(places, sources, strict=True)]
    _install(model, modules, sources, entries)


def removed_run(total: int, count: int, start: int) -> list[int]:
    """The blocks that stay when `count` of `total` go, from number `start` on."""
    return [number for number in range(total) if not start <= number < start + count]


def layer_type(model: nn.Module, number: int) -> str | None:
    """The entry of config.layer_types for a block, where the config has that list."""
    types = getattr(_located(model)[0], "layer_types", None)
    return None if types is None else str(types[number])


def _located(model: nn.Module) -> tuple[Any, str, nn.ModuleList]:
    """(the config that counts the blocks, the path of their list, the list)."""
    whole: Any = getattr(model, "config", None)
    config = whole.get_text_config() if hasattr(whole, "get_text_config") else whole
    paths, count = block_paths(model), getattr(config, "num_hidden_layers", None)
    if len(paths) != 1:
        problem = f"it has {len(paths)} lists of blocks ({', '.join(paths)})" if paths else "its blocks are not known"
        raise SpecError(f"{type(model).__name__} cannot be taken block by block: {problem}; give a decoder")
    blocks = model.get_submodule(paths[0])
    assert isinstance(blocks, nn.ModuleList)
    if len(blocks) != count:
        raise SpecError(f"{paths[0]} holds {len(blocks)} blocks and the config says {count}: they share weights")
    return config, paths[0], blocks


def _install(
    model: nn.Module, modules: Sequence[nn.Module], sources: Sequence[int], types: Sequence[str] | None = None
) -> None:
    """The new list; block i takes the entries of the config that block `sources[i]` had."""
    config, path, blocks = _located(model)
    unchanged = list(sources) == list(range(len(blocks))) and all(a is b for a, b in zip(modules, blocks, strict=True))
    if unchanged:
        return
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise SpecError(f"{type(model).__name__} divides by a block's number: without some it would be another model")
    entries = types or _taken(getattr(config, "layer_types", None), sources)
    slots = _cache_slots(modules, entries)
    _resize_config(config, len(blocks), sources)
    if entries is not None:
        config.layer_types = list(entries)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.ModuleList(modules))
    for module, slot in zip(modules, slots, strict=True):
        for part in module.modules():
            for index in INDEX_NAMES:
                if isinstance(getattr(part, index, None), int):
                    setattr(part, index, slot)


def _taken(values: Sequence[Any] | None, sources: Sequence[int]) -> list[Any] | None:
    return None if values is None else [values[source] for source in sources]


def _resize_config(config: Any, count: int, sources: Sequence[int]) -> None:
    """The number of blocks, the lists with an entry for each, and those that name some of them by number."""
    for name, value in list(vars(config).items()):
        if "layer" in name and isinstance(value, list | tuple) and len(value) == count and name != "mlp_only_layers":
            setattr(config, name, [value[source] for source in sources])
    if getattr(config, "decoder_sparse_step", None):  # Qwen's mixtures: dense blocks by number, or every so many
        step, named = config.decoder_sparse_step, config.mlp_only_layers or []
        dense = {number for number in range(count) if number in named or (number + 1) % step}
        config.mlp_only_layers = [place for place, source in enumerate(sources) if source % count in dense]
        config.decoder_sparse_step = 1
    config.num_hidden_layers = len(sources)


def _cache_slots(modules: Sequence[nn.Module], types: Sequence[str] | None) -> list[int]:
    """Each block's place in the KV cache, which has one for every block and is asked for its length at the first.

    Affine blocks leave theirs empty: real ones come first, or where kinds of attention differ keep their own places.
    """
    real = [not isinstance(module, AffineBlock) for module in modules]
    if types is None or len(set(types)) < 2:
        return [sum(real[:place]) for place in range(len(modules))]
    first = {kind: types.index(kind) for kind in types}
    if empty := [str(place) for place in first.values() if not real[place]]:
        raise SpecError(
            f"block {', '.join(empty)} cannot be an affine map: this model mixes kinds of attention "
            f"({', '.join(first)}) and measures each kind's cache at its first block; choose other blocks"
        )
    return list(range(len(modules)))
