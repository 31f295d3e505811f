"""Which output rows of a fused projection make the queries, the keys and the values.

Shapes: H heads of D features, G key-value heads; a layout maps "q", "k", "v" to 1-D int64 tensors of row
indices, ascending, i.e. in the order of the heads. Read off the models' forward passes and checked against
them in the tests. It knows nothing of module names: `family_table` says which projection has which layout.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

Rows = dict[str, torch.Tensor]
Layout = Callable[[Any, int], Rows]
"""`layout(config, number of rows)`; raises ValueError if the rows do not fit the config."""

CODEGEN_SLABS = 4
"""CodeGen keeps the order of the 4 accelerators it was trained on."""


def _heads(config: Any) -> int:
    return int(config.num_attention_heads)


def _blocks(row_count: int, groups: int, block_sizes: Mapping[str, int]) -> Rows:
    """`groups` repeats of consecutive blocks of the given sizes: rows [groups, sum of the sizes]."""
    width = sum(block_sizes.values())
    if groups * width != row_count:
        raise ValueError(f"{groups} × {width} rows are due by the model's config, the projection has {row_count}")
    grid = torch.arange(row_count).view(groups, width)
    parts = torch.split(grid, list(block_sizes.values()), dim=1)
    return {name: part.reshape(-1) for name, part in zip(block_sizes, parts, strict=True)}


def thirds(config: Any, row_count: int) -> Rows:
    """All q, then all k, then all v."""
    third = row_count // 3
    return _blocks(row_count, 1, {"q": third, "k": third, "v": third})


def halves(config: Any, row_count: int) -> Rows:
    """All k, then all v: a cross-attention, whose queries have a projection of their own."""
    half = row_count // 2
    return _blocks(row_count, 1, {"k": half, "v": half})


def per_head(config: Any, row_count: int) -> Rows:
    """Head by head: [H, (q, k, v), D]."""
    heads = _heads(config)
    size = row_count // (3 * heads)
    return _blocks(row_count, heads, {"q": size, "k": size, "v": size})


def grouped_query(config: Any, row_count: int) -> Rows:
    """H query heads, then G key heads, then G value heads."""
    heads, groups = _heads(config), int(config.num_key_value_heads)
    size = row_count // (heads + 2 * groups)
    return _blocks(row_count, 1, {"q": heads * size, "k": groups * size, "v": groups * size})


def gpt2(config: Any, row_count: int) -> Rows:
    """GPT-2: thirds. Its descendant GPT-BigCode: H query heads, one key and one value head; or head by
    head.
    """
    multi_query = getattr(config, "multi_query", None)
    if multi_query is None:
        return thirds(config, row_count)
    if not multi_query:
        return per_head(config, row_count)
    size = row_count // (_heads(config) + 2)
    return _blocks(row_count, 1, {"q": _heads(config) * size, "k": size, "v": size})


def falcon(config: Any, row_count: int) -> Rows:
    """BLOOM and the first Falcon: head by head. Multi-query: H query heads, k, v. New decoder: G groups of
    those.
    """
    heads = _heads(config)
    if getattr(config, "new_decoder_architecture", False):
        groups = int(config.num_kv_heads)
    elif getattr(config, "multi_query", False):
        groups = 1
    else:
        groups = heads
    queries = heads // groups
    size = row_count // (groups * (queries + 2))
    return _blocks(row_count, groups, {"q": queries * size, "k": size, "v": size})


def codegen(config: Any, row_count: int) -> Rows:
    """In four slabs of heads: [slab, (q, v, k), rest]. The values come before the keys."""
    size = row_count // (3 * CODEGEN_SLABS)
    return _blocks(row_count, CODEGEN_SLABS, {"q": size, "v": size, "k": size})
