"""How PEFT lays a low-rank update out in a file, kind by kind: both directions.

PEFT has one factor pair per module (two for nn.MultiheadAttention, one per raw parameter), one rank and one alpha
for it. Our updates are finer, so several parts are *packed*: their A stacked, their B in their own rows and columns
of a B that is zero elsewhere, and alpha such that the scale stays the same,

    ΔW = Σ s·B_p·A_p = s'·[B_1 … B_n]·[A_1; …; A_n],     s' = alpha'/r',  r' = Σ r_p.

Knows nothing of files and of key prefixes. Shapes: R rank, I inputs, O outputs, G groups, E experts.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.updates.build import CONVOLUTIONS
from loralab.core.updates.factors import Factors, Pair, Recipe
from loralab.core.updates.low_rank import ConvUpdate, EmbeddingUpdate, LinearUpdate
from loralab.core.updates.magnitude import MAGNITUDE, Magnitude
from loralab.core.updates.substitution import AttentionUpdate, ParameterUpdate
from loralab.core.updates.update import WHOLE, Kind, Update
from loralab.errors import AdapterFileError
from loralab.formats.peft.keys import EMBEDDING_A, EMBEDDING_B, A, B
from loralab.nn.dense import dense_shape
from loralab.nn.tensors import tensor_of

OUT_A, OUT_B = f"base_layer.out_proj.{A}", f"base_layer.out_proj.{B}"
IN_PROJECTION = ("q", "k", "v")
OUTPUT_TWICE = 2.0
"""PEFT up to 0.21.2 adds the update of nn.MultiheadAttention's output projection twice, in training as in inference
(its pull request 3774): what such a file holds is half of what the adapter does."""

SAME_LENGTH = 0.02
"""The base's own lengths of rows that are not adapted, in whatever precision the base was loaded then and now."""

Shapes = dict[str, tuple[int, ...]]
"""By local key."""


@dataclass(frozen=True)
class PeftEntry:
    """One entry of PEFT's: a module or a raw parameter of one, with its rank, alpha and tensors by local key."""

    parameter: str | None
    recipe: Recipe
    tensors: Mapping[str, Tensor]


def pack(update: Update, base: nn.Module, rank_stabilized: bool) -> list[PeftEntry]:
    """The update of the module `base` as PEFT would store it."""
    packed = list(_FORMS[update.kind].pack(update, base, rank_stabilized))
    if isinstance(update, Magnitude):
        return [replace(each, tensors={**each.tensors, MAGNITUDE: _all_lengths(update, base)}) for each in packed]
    return packed


def _all_lengths(update: Magnitude, base: nn.Module) -> Tensor:
    """The length of every output's weights: those that do not train are the base's own."""
    with torch.no_grad():
        return update.lengths(base).clone()


def unpack(update: Update, base: nn.Module, entry: PeftEntry) -> None:
    """Fill the factors of an update of the module `base` from an entry: the inverse of `pack`."""
    if isinstance(update, Magnitude):
        update.set_lengths(entry.tensors[MAGNITUDE])
    _FORMS[update.kind].unpack(update, base, entry)


def surplus(update: Update, base: nn.Module, entry: PeftEntry) -> list[str]:
    """Local keys of tensors that hold something where the update has nothing, so that `unpack` would leave it out:
    a file that `pack` did not write, for then PEFT computes more than the update does."""
    keys = list(_FORMS[update.kind].surplus(update, base, entry))
    if isinstance(update, Magnitude) and WHOLE not in update.parts:
        own, said = _all_lengths(update, base).flatten().float(), entry.tensors[MAGNITUDE].flatten().float()
        keys += [] if torch.allclose(own, said, rtol=SAME_LENGTH) else [MAGNITUDE]
    return keys


def entry_shapes(base: nn.Module, parameter: str | None, rank: int, magnitude: bool = False) -> Shapes:
    """Local key → shape of all tensors that PEFT stores for a module, or for a raw parameter of one."""
    kind: Kind = "parameters" if parameter is not None else "linear"
    if parameter is None:
        kind = next((kind for kind, classes in _OF_CLASSES.items() if isinstance(base, classes)), kind)
    form = _FORMS[kind]
    if not magnitude:
        return form.shapes(base, parameter, rank)
    if form.lengths is None:
        raise AdapterFileError(
            f"use_dora is true, but PEFT has no lengths for {parameter or 'the projections'} of {type(base).__name__}"
        )
    return form.shapes(base, parameter, rank) | {MAGNITUDE: form.lengths(base)}


def _fill(factors: Factors, A_values: Tensor, B_values: Tensor) -> None:
    factors.fill({"lora_A": A_values, "lora_B": B_values})


def _entry(
    recipe: Recipe, rank: int, rank_stabilized: bool, tensors: Mapping[str, Tensor], parameter: str | None = None
) -> PeftEntry:
    detached = {key: tensor.detach() for key, tensor in tensors.items()}
    alpha = recipe.at_rank(rank, rank_stabilized).alpha
    return PeftEntry(parameter, Recipe(rank, alpha, rank_stabilized=rank_stabilized), detached)


# -- dense layers and embeddings: one factor pair ----------------------------------------------------------------


def _linear_shapes(base: nn.Module, parameter: str | None, rank: int) -> Shapes:
    O, I = dense_shape(base)  # noqa: E741
    return {A: (rank, I), B: (O, rank)}


def _pack_linear(update: LinearUpdate, base: nn.Module, rank_stabilized: bool) -> Iterator[PeftEntry]:
    yield _pack_whole(update, rank_stabilized) if WHOLE in update.parts else _pack_parts(update, rank_stabilized)


def _unpack_linear(update: LinearUpdate, base: nn.Module, entry: PeftEntry) -> None:
    if WHOLE in update.parts:
        _fill(update.factors_of(WHOLE), entry.tensors[A], entry.tensors[B])
    else:
        _unpack_parts(update, entry.tensors)


def _embedding_shapes(base: nn.Embedding, parameter: str | None, rank: int) -> Shapes:
    return {EMBEDDING_A: (rank, base.num_embeddings), EMBEDDING_B: (base.embedding_dim, rank)}


def _pack_embedding(update: EmbeddingUpdate, base: nn.Module, rank_stabilized: bool) -> Iterator[PeftEntry]:
    yield _pack_whole(update, rank_stabilized, EMBEDDING_A, EMBEDDING_B)


def _unpack_embedding(update: EmbeddingUpdate, base: nn.Module, entry: PeftEntry) -> None:
    _fill(update.factors_of(WHOLE), entry.tensors[EMBEDDING_A], entry.tensors[EMBEDDING_B])


def _pack_whole(update: Update, rank_stabilized: bool, key_A: str = A, key_B: str = B) -> PeftEntry:
    factors = update.factors_of(WHOLE)
    return _entry(factors.recipe, factors.recipe.rank, rank_stabilized, {key_A: factors.lora_A, key_B: factors.lora_B})


# -- parts of a fused projection ------------------------------------------------------------------------------


def _pack_parts(update: LinearUpdate, rank_stabilized: bool) -> PeftEntry:
    parts = {part: update.factors_of(part) for part in update.parts}
    reference, ratios = _common_scale(parts)
    placed = [(each.lora_A, each.lora_B * ratios[part], update.rows_of(part)) for part, each in parts.items()]
    rank, like = sum(each.recipe.rank for each in parts.values()), placed[0][0]
    A_RI, B_OR = like.new_zeros(rank, like.shape[1]), like.new_zeros(update.out_features, rank)
    return _entry(reference, rank, rank_stabilized, dict(zip((A, B), stacked(A_RI, B_OR, placed), strict=True)))


def _unpack_parts(update: LinearUpdate, tensors: Mapping[str, Tensor]) -> None:
    parts = {part: update.factors_of(part) for part in update.parts}
    ratios, start = _common_scale(parts)[1], 0
    for part, factors in parts.items():
        columns = slice(start, start := start + factors.recipe.rank)
        rows = update.rows_of(part).to(tensors[B].device)
        _fill(factors, tensors[A][columns], tensors[B][:, columns][rows] / (ratios[part] or 1.0))


def _surplus_of_parts(update: LinearUpdate, base: nn.Module, entry: PeftEntry) -> Iterator[str]:
    if WHOLE not in update.parts:
        placed = [(update.factors_of(part).recipe.rank, update.rows_of(part)) for part in update.parts]
        if _holds_more(entry.tensors[B], placed):
            yield B


def _holds_more(B_OR: Tensor, placed: Iterable[tuple[int, Tensor | slice]]) -> bool:
    """Whether anything stands beside the rows of each (number of columns, rows), one after another."""
    others, start = B_OR.clone(), 0
    for rank, rows in placed:
        others[rows, start : start + rank] = 0
        start += rank
    return bool(others.any())


@torch.no_grad()
def stacked(A_RI: Tensor, B_OR: Tensor, placed: Iterable[tuple[Tensor, Tensor, Tensor | slice]]) -> Pair:
    """Fill zeros with pairs (A, B, rows), one after another: each has its own rows of A and columns of B, where it is
    in its own `rows`."""
    start = 0
    for A_part, B_part, rows in placed:
        columns = slice(start, start := start + len(A_part))
        A_RI[columns], B_OR[rows, columns] = A_part, B_part
    return A_RI, B_OR


def _common_scale(parts: Mapping[str, Factors]) -> tuple[Recipe, dict[str, float]]:
    """The recipe of the part with the largest scale, and each part's scale relative to it: what B must absorb."""
    reference = max((factors.recipe for factors in parts.values()), key=lambda recipe: abs(recipe.scale))
    scale = reference.scale or 1.0
    return reference, {part: factors.recipe.scale / scale for part, factors in parts.items()}


# -- nn.MultiheadAttention: one pair for q, k and v together, one for the output, of one rank and alpha ----------


def _attention_shapes(base: nn.MultiheadAttention, parameter: str | None, rank: int) -> Shapes:
    E = base.embed_dim
    return {A: (rank, E), B: (3 * E, rank), OUT_A: (rank, E), OUT_B: (E, rank)}


def _attention_why_not(update: AttentionUpdate, base: nn.MultiheadAttention) -> str | None:
    narrow = base.in_proj_weight is None
    return "PEFT adapts nn.MultiheadAttention only where keys and values are as wide as queries" if narrow else None


def _pack_attention(update: AttentionUpdate, base: nn.Module, rank_stabilized: bool) -> Iterator[PeftEntry]:
    parts = {part: update.factors_of(part) for part in update.parts}
    reference, ratios = _common_scale(parts)
    scaled = {part: (each.lora_A, each.lora_B * ratios[part]) for part, each in parts.items()}
    rank, like = _attention_rank(parts), next(iter(parts.values())).lora_A
    E = int(getattr(base, "embed_dim"))  # noqa: B009  nn.Module types its attributes as modules
    into = [(*scaled[part], _third(part, E)) for part in IN_PROJECTION if part in parts]
    out = [(A_RI, B_OR / OUTPUT_TWICE, slice(None)) for part, (A_RI, B_OR) in scaled.items() if part == "out"]
    A_in, B_in = stacked(like.new_zeros(rank, E), like.new_zeros(3 * E, rank), into)
    A_out, B_out = stacked(like.new_zeros(rank, E), like.new_zeros(E, rank), out)
    yield _entry(reference, rank, rank_stabilized, {A: A_in, B: B_in, OUT_A: A_out, OUT_B: B_out})


def _unpack_attention(update: AttentionUpdate, base: nn.Module, entry: PeftEntry) -> None:
    """From packed parts; from PEFT's own pair, whose one A serves q, k and v, each part gets a copy of it."""
    tensors, parts = entry.tensors, {part: update.factors_of(part) for part in update.parts}
    ratios, start = _common_scale(parts)[1], 0
    shared = _attention_rank(parts) != entry.recipe.rank
    E = len(tensors[OUT_B])
    for part in (part for part in IN_PROJECTION if part in parts):
        columns = slice(None) if shared else slice(start, start := start + parts[part].recipe.rank)
        _fill(parts[part], tensors[A][columns], tensors[B][_third(part, E), columns] / (ratios[part] or 1.0))
    if "out" in parts:
        R = parts["out"].recipe.rank
        B_out = tensors[OUT_B][:, :R] * OUTPUT_TWICE
        _fill(parts["out"], tensors[OUT_A][:R], B_out / (ratios["out"] or 1.0))


def _surplus_of_attention(update: AttentionUpdate, base: nn.Module, entry: PeftEntry) -> Iterator[str]:
    parts = {part: update.factors_of(part) for part in update.parts}
    E, shared = len(entry.tensors[OUT_B]), _attention_rank(parts) != entry.recipe.rank
    if shared:
        thirds = torch.unflatten(entry.tensors[B], 0, (len(IN_PROJECTION), E))
        more = any(bool(third.any()) for name, third in zip(IN_PROJECTION, thirds, strict=True) if name not in parts)
    else:
        into = [(parts[part].recipe.rank, _third(part, E)) for part in IN_PROJECTION if part in parts]
        more = _holds_more(entry.tensors[B], into)
    if more:
        yield B
    if _holds_more(entry.tensors[OUT_B], [(parts["out"].recipe.rank, slice(None))] if "out" in parts else []):
        yield OUT_B


def _attention_rank(parts: Mapping[str, Factors]) -> int:
    into = sum(parts[part].recipe.rank for part in IN_PROJECTION if part in parts)
    return max(into, parts["out"].recipe.rank if "out" in parts else 0)


def _third(part: str, E: int) -> slice:
    number = IN_PROJECTION.index(part)
    return slice(number * E, (number + 1) * E)


# -- convolutions: PEFT's A is never grouped --------------------------------------------------------------------


def _conv_shapes(base: Any, parameter: str | None, rank: int) -> Shapes:
    ones = tuple(1 for _ in base.kernel_size)
    return {A: (rank, base.in_channels, *base.kernel_size), B: (base.out_channels, rank // base.groups, *ones)}


def _conv_lengths(base: Any) -> tuple[int, ...]:
    return (1, base.out_channels, *(1 for _ in base.kernel_size))


def _conv_why_not(update: ConvUpdate, base: Any) -> str | None:
    if base.padding_mode != "zeros" or set(_tuple(base.dilation)) != {1}:
        return "PEFT's convolutions have no dilation and pad with zeros, so it would compute another function"
    if not _is_plain_convolution(base):
        return f"PEFT makes its A a {type(base).__name__} too, which convolves in a way of its own"
    return None


def _tuple(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _is_plain_convolution(base: nn.Module) -> bool:
    """Whether another module of this class is torch's own convolution: PEFT makes A from the class of the base."""
    torchs = next(each for each in CONVOLUTIONS if isinstance(base, each))
    return all(getattr(type(base), name) is getattr(torchs, name) for name in ("__init__", "forward", "_conv_forward"))


def _pack_conv(update: ConvUpdate, base: nn.Module, rank_stabilized: bool) -> Iterator[PeftEntry]:
    factors = update.factors_of(WHOLE)
    groups = int(getattr(base, "groups", 1))
    A_conv = factors.lora_A if update.is_dense(base) else _dense(factors.lora_A, groups)
    yield _entry(factors.recipe, factors.recipe.rank * groups, rank_stabilized, {A: A_conv, B: factors.lora_B})


def _unpack_conv(update: ConvUpdate, base: nn.Module, entry: PeftEntry) -> None:
    A_conv = entry.tensors[A]
    if not update.is_dense(base):
        A_conv = _blocked(A_conv, int(getattr(base, "groups", 1)))
    _fill(update.factors_of(WHOLE), A_conv, entry.tensors[B])


def _surplus_of_conv(update: ConvUpdate, base: nn.Module, entry: PeftEntry) -> Iterator[str]:
    if not update.is_dense(base) and not is_blocked(entry.tensors[A], int(getattr(base, "groups", 1))):
        yield A


def is_blocked(A_dense: Tensor, groups: int) -> bool:
    """Whether each group's rows of a dense A [G·R, I, …] read that group's input channels only."""
    return torch.equal(_dense(_blocked(A_dense, groups), groups), A_dense)


def _dense(A_blocked: Tensor, groups: int) -> Tensor:
    """[G·R, I/G, …] → [G·R, I, …], zero where a group would read another group's channels."""
    if groups == 1:
        return A_blocked
    blocks = torch.unflatten(A_blocked, 0, (groups, -1))
    dense = A_blocked.new_zeros(*blocks.shape[:2], groups, *blocks.shape[2:])
    for group in range(groups):
        dense[group, :, group] = blocks[group]
    return dense.flatten(2, 3).flatten(0, 1)


def _blocked(A_dense: Tensor, groups: int) -> Tensor:
    """[G·R, I, …] → [G·R, I/G, …]: each group's own input channels."""
    if groups == 1:
        return A_dense
    blocks = torch.unflatten(torch.unflatten(A_dense, 1, (groups, -1)), 0, (groups, -1))
    return torch.cat([blocks[group, :, group] for group in range(groups)])


# -- raw parameters: experts outermost in A's rows, innermost in B's columns --------------------------------------


def _parameter_shapes(base: nn.Module, parameter: str | None, rank: int) -> Shapes:
    *experts, O, I = tensor_of(base, str(parameter)).shape  # noqa: E741
    if getattr(base, "is_transposed", False) and experts:
        O, I = I, O  # noqa: E741
    E = math.prod(experts)
    return {A: (rank * E, I), B: (O, rank * E)}


def _parameter_why_not(update: ParameterUpdate, base: nn.Module) -> str | None:
    single = update.stored_transposed and any(tensor_of(base, name).shape[0] == 1 for name in update.parts)
    return "PEFT does not transpose the update of a single expert" if single else None


def _pack_parameters(update: ParameterUpdate, base: nn.Module, rank_stabilized: bool) -> Iterator[PeftEntry]:
    for name in update.parts:
        factors = update.factors_of(name)
        A_values, B_values = factors.lora_A.detach(), factors.lora_B.detach()
        if A_values.dim() == 3:
            A_values, B_values = A_values.flatten(0, 1), B_values.permute(1, 2, 0).flatten(1)
        yield _entry(factors.recipe, factors.recipe.rank, rank_stabilized, {A: A_values, B: B_values}, name)


def _unpack_parameter(update: ParameterUpdate, base: nn.Module, entry: PeftEntry) -> None:
    factors, A_values, B_values = update.factors_of(str(entry.parameter)), entry.tensors[A], entry.tensors[B]
    if factors.lora_A.dim() == 3:
        E = len(factors.lora_A)
        A_values = torch.unflatten(A_values, 0, (E, -1))
        B_values = torch.unflatten(B_values, 1, (-1, E)).permute(2, 0, 1)
    _fill(factors, A_values, B_values)


# -- the table ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Form:
    """How PEFT stores the updates of one kind."""

    shapes: Callable[[Any, str | None, int], Shapes]
    pack: Callable[[Any, Any, bool], Iterator[PeftEntry]]
    unpack: Callable[[Any, Any, PeftEntry], None]
    lengths: Callable[[Any], tuple[int, ...]] | None = None
    """The shape of DoRA's lengths; None where PEFT has no DoRA."""
    why_not: Callable[[Any, Any], str | None] = lambda update, base: None
    surplus: Callable[[Any, Any, PeftEntry], Iterable[str]] = lambda update, base, entry: ()
    """What `unpack` leaves out."""


_FORMS: dict[Kind, _Form] = {
    "linear": _Form(
        _linear_shapes, _pack_linear, _unpack_linear, lambda base: (dense_shape(base)[0],), surplus=_surplus_of_parts
    ),
    "embedding": _Form(_embedding_shapes, _pack_embedding, _unpack_embedding, lambda base: (base.embedding_dim,)),
    "conv": _Form(_conv_shapes, _pack_conv, _unpack_conv, _conv_lengths, _conv_why_not, _surplus_of_conv),
    "attention": _Form(
        _attention_shapes, _pack_attention, _unpack_attention, None, _attention_why_not, _surplus_of_attention
    ),
    "parameters": _Form(_parameter_shapes, _pack_parameters, _unpack_parameter, why_not=_parameter_why_not),
}
_OF_CLASSES: dict[Kind, type[nn.Module] | tuple[type[nn.Module], ...]] = {
    "attention": nn.MultiheadAttention,
    "embedding": nn.Embedding,
    "conv": CONVOLUTIONS,
}
"""Kind → the classes whose updates PEFT stores so; all others as those of dense layers."""


def why_not_form(update: Update, base: nn.Module) -> str | None:
    """Why PEFT stores no update of this kind for this module; None where it does."""
    form = _FORMS.get(update.kind)
    return None if form is None else form.why_not(update, base)
