"""How PEFT lays a low-rank update out in a file, kind by kind: both directions.

PEFT has one factor pair per module (two for nn.MultiheadAttention, one per raw parameter), one rank and one alpha
for it. Our updates are finer, so several parts are *packed*: their A stacked, their B in their own rows and columns
of a B that is zero elsewhere, and alpha such that the scale stays the same,

    ΔW = Σ s·B_p·A_p = s'·[B_1 … B_n]·[A_1; …; A_n],     s' = alpha'/r',  r' = Σ r_p.

Knows nothing of files and of key prefixes. Shapes: R rank, I inputs, O outputs, G groups, E experts.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from loralab.core.names import class_name
from loralab.core.updates.build import linear_shape
from loralab.core.updates.factors import Factors, Recipe
from loralab.core.updates.low_rank import ConvUpdate, EmbeddingUpdate, LinearUpdate
from loralab.core.updates.magnitude import MAGNITUDE, Magnitude
from loralab.core.updates.substitution import AttentionUpdate, ParameterUpdate
from loralab.core.updates.tokens import TokenUpdate
from loralab.core.updates.update import WHOLE, Update, tensor_of
from loralab.errors import AdapterFileError
from loralab.formats.peft.tokens import why_not_peft_rows

A, B = "lora_A.weight", "lora_B.weight"
EMBEDDING_A, EMBEDDING_B = "lora_embedding_A", "lora_embedding_B"
OUT_A, OUT_B = f"base_layer.out_proj.{A}", f"base_layer.out_proj.{B}"
IN_PROJECTION = ("q", "k", "v")
OUTPUT_TWICE = 2.0
"""PEFT up to 0.21.2 adds the update of nn.MultiheadAttention's output projection twice, in training as in inference
(its pull request 3774): what such a file holds is half of what the adapter does."""

BIASES = frozenset({"bias", "out_proj.bias"})
"""Names, within a module, of the biases that PEFT trains."""


@dataclass(frozen=True)
class Packed:
    """One entry of PEFT's: a module, or a raw parameter of one, with its rank, alpha and tensors by local key."""

    parameter: str | None
    rank: int
    alpha: float
    rank_stabilized: bool
    tensors: Mapping[str, Tensor]

    @property
    def recipe(self) -> Recipe:
        """Its rank and alpha as a recipe."""
        return Recipe(self.rank, self.alpha, rank_stabilized=self.rank_stabilized)


def pack(update: Update, base: nn.Module, rank_stabilized: bool) -> list[Packed]:
    """The update of the module `base` as PEFT would store it."""
    packed = _pack_pairs(update, base, rank_stabilized)
    if isinstance(update, Magnitude):
        return [replace(each, tensors={**each.tensors, MAGNITUDE: _all_lengths(update, base)}) for each in packed]
    return packed


def _all_lengths(update: Magnitude, base: nn.Module) -> Tensor:
    """The length of every output's weights: those that do not train are the base's own."""
    with torch.no_grad():
        return update.lengths(base).clone()


def _pack_pairs(update: Update, base: nn.Module, rank_stabilized: bool) -> list[Packed]:
    if isinstance(update, ParameterUpdate):
        return [_pack_parameter(update, name, rank_stabilized) for name in update.parts]
    if isinstance(update, AttentionUpdate):
        return [_pack_attention(update, base, rank_stabilized)]
    if isinstance(update, EmbeddingUpdate):
        return [_pack_whole(update, rank_stabilized, EMBEDDING_A, EMBEDDING_B)]
    if isinstance(update, ConvUpdate):
        return [_pack_conv(update, base, rank_stabilized)]
    if isinstance(update, LinearUpdate) and WHOLE not in update.parts:
        return [_pack_linear_parts(update, rank_stabilized)]
    return [_pack_whole(update, rank_stabilized, A, B)]


def unpack(
    update: Update,
    base: nn.Module,
    parameter: str | None,
    rank: int,
    tensors: Mapping[str, Tensor],
    output_applied: float = OUTPUT_TWICE,
) -> None:
    """Fill the update's factors from one entry's tensors: the inverse of `pack`.

    `output_applied` is how often the PEFT that wrote them adds the update of an attention's output.
    """
    if isinstance(update, Magnitude):
        update.set_lengths(tensors[MAGNITUDE])
    if isinstance(update, ParameterUpdate):
        assert parameter is not None
        _unpack_parameter(update.factors_of(parameter), tensors)
    elif isinstance(update, AttentionUpdate):
        _unpack_attention(update, rank, tensors, output_applied)
    elif isinstance(update, EmbeddingUpdate):
        fill(update.factors_of(WHOLE), tensors[EMBEDDING_A], tensors[EMBEDDING_B])
    elif isinstance(update, ConvUpdate):
        _unpack_conv(update, base, tensors)
    elif isinstance(update, LinearUpdate) and WHOLE not in update.parts:
        _unpack_linear_parts(update, tensors)
    else:
        fill(update.factors_of(WHOLE), tensors[A], tensors[B])


def entry_shapes(
    base: nn.Module, parameter: str | None, rank: int, magnitude: bool = False
) -> dict[str, tuple[int, ...]]:
    """Local key → shape of all tensors that PEFT stores for a module, or for a raw parameter of one."""
    shapes = _pair_shapes(base, parameter, rank)
    return shapes | ({MAGNITUDE: _lengths_shape(base, parameter)} if magnitude else {})


def _lengths_shape(base: nn.Module, parameter: str | None) -> tuple[int, ...]:
    if parameter is not None or isinstance(base, nn.MultiheadAttention):
        raise AdapterFileError(
            f"use_dora is true, but PEFT has no lengths for {parameter or 'the projections'} of {type(base).__name__}"
        )
    if isinstance(base, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return (1, base.out_channels, *(1 for _ in base.kernel_size))
    return (base.embedding_dim,) if isinstance(base, nn.Embedding) else (linear_shape(base)[0],)


def _pair_shapes(base: nn.Module, parameter: str | None, rank: int) -> dict[str, tuple[int, ...]]:
    if parameter is not None:
        *experts, O, I = tensor_of(base, parameter).shape  # noqa: E741
        if getattr(base, "is_transposed", False) and experts:
            O, I = I, O  # noqa: E741
        E = math.prod(experts)
        return {A: (rank * E, I), B: (O, rank * E)}
    if isinstance(base, nn.MultiheadAttention):
        E = base.embed_dim
        return {A: (rank, E), B: (3 * E, rank), OUT_A: (rank, E), OUT_B: (E, rank)}
    if isinstance(base, nn.Embedding):
        return {EMBEDDING_A: (rank, base.num_embeddings), EMBEDDING_B: (base.embedding_dim, rank)}
    if isinstance(base, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        ones = tuple(1 for _ in base.kernel_size)
        return {
            A: (rank, base.in_channels, *base.kernel_size),
            B: (base.out_channels, rank // base.groups, *ones),
        }
    O, I = linear_shape(base)  # noqa: E741
    return {A: (rank, I), B: (O, rank)}


def why_not_peft(update: Update, base: nn.Module) -> str | None:
    """Why PEFT cannot express this update, or None if it can."""
    if isinstance(update, TokenUpdate):
        return why_not_peft_rows(base)
    if isinstance(update, AttentionUpdate) and base.in_proj_weight is None:
        return "PEFT adapts nn.MultiheadAttention only where keys and values are as wide as queries"
    if isinstance(update, ConvUpdate) and (base.padding_mode != "zeros" or set(_tuple(base.dilation)) != {1}):
        return "PEFT's convolutions have no dilation and pad with zeros, so it would compute another function"
    if isinstance(update, ConvUpdate) and not _is_plain_convolution(base):
        return f"PEFT makes its A a {type(base).__name__} too, which convolves in a way of its own"
    if isinstance(update, ParameterUpdate) and update.stored_transposed:
        single = any(tensor_of(base, name).shape[0] == 1 for name in update.parts)
        return "PEFT does not transpose the update of a single expert" if single else None
    if update.why_not_merged and not update.invocation:
        return f"it is {update.why_not_merged}"
    if not update.is_plain:
        kinds = dict.fromkeys(update.delta_of(part).kind for part in update.parts)
        return f"PEFT's LoRA trains one pair A, B for a module, and here it is {', '.join(kinds)}"
    if update.parts and not set(update.replacements()) <= BIASES:
        return "PEFT does not replace other tensors than the bias of a module with a low-rank update"
    return None


def _is_plain_convolution(base: nn.Module) -> bool:
    """Whether another module of this class is torch's own convolution: PEFT makes A from the class of the base."""
    torchs = next(each for each in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(base, each))
    return all(getattr(type(base), name) is getattr(torchs, name) for name in ("__init__", "forward", "_conv_forward"))


def is_blocked(A_dense: Tensor, groups: int) -> bool:
    """Whether each group's rows of a dense A [G·R, I, …] read that group's input channels only."""
    return torch.equal(_dense(_blocked(A_dense, groups), groups), A_dense)


def fill(factors: Factors, A_values: Tensor, B_values: Tensor) -> None:
    """Copy values in, in float64 where they come in float64."""
    if torch.float64 in (A_values.dtype, B_values.dtype):
        factors.double()
    with torch.no_grad():
        factors.lora_A.copy_(A_values)
        factors.lora_B.copy_(B_values)


# -- one factor pair ------------------------------------------------------------------------------------------


def _pack_whole(update: Update, rank_stabilized: bool, key_A: str, key_B: str) -> Packed:
    factors = update.factors_of(WHOLE)
    return _entry(factors.recipe, factors.recipe.rank, rank_stabilized, {key_A: factors.lora_A, key_B: factors.lora_B})


def _entry(
    recipe: Recipe, rank: int, rank_stabilized: bool, tensors: Mapping[str, Tensor], parameter: str | None = None
) -> Packed:
    detached = {key: tensor.detach() for key, tensor in tensors.items()}
    return Packed(parameter, rank, recipe.at_rank(rank, rank_stabilized).alpha, rank_stabilized, detached)


# -- parts of a fused projection ------------------------------------------------------------------------------


def _pack_linear_parts(update: LinearUpdate, rank_stabilized: bool) -> Packed:
    parts = {part: update.factors_of(part) for part in update.parts}
    reference, ratios = _common_scale(parts)
    stacked = torch.cat([factors.lora_A for factors in parts.values()])
    spread, start = stacked.new_zeros(update.out_features, len(stacked)), 0
    with torch.no_grad():
        for part, factors in parts.items():
            columns = slice(start, start := start + factors.recipe.rank)
            spread[:, columns].index_copy_(0, update.rows_of(part), factors.lora_B * ratios[part])
    return _entry(reference, len(stacked), rank_stabilized, {A: stacked, B: spread})


def _unpack_linear_parts(update: LinearUpdate, tensors: Mapping[str, Tensor]) -> None:
    parts = {part: update.factors_of(part) for part in update.parts}
    ratios, start = _common_scale(parts)[1], 0
    for part, factors in parts.items():
        columns = slice(start, start := start + factors.recipe.rank)
        rows = update.rows_of(part).to(tensors[B].device)
        fill(factors, tensors[A][columns], tensors[B][:, columns][rows] / (ratios[part] or 1.0))


def _common_scale(parts: Mapping[str, Factors]) -> tuple[Recipe, dict[str, float]]:
    """The recipe of the part with the largest scale, and each part's scale relative to it: what B must absorb."""
    reference = max((factors.recipe for factors in parts.values()), key=lambda recipe: abs(recipe.scale))
    scale = reference.scale or 1.0
    return reference, {part: factors.recipe.scale / scale for part, factors in parts.items()}


# -- nn.MultiheadAttention: one pair for q, k and v together, one for the output, of one rank and alpha ----------


def _pack_attention(update: AttentionUpdate, base: nn.Module, rank_stabilized: bool) -> Packed:
    parts = {part: update.factors_of(part) for part in update.parts}
    reference, ratios = _common_scale(parts)
    into = [part for part in IN_PROJECTION if part in parts]
    rank = _attention_rank(parts)
    like = next(iter(parts.values())).lora_A
    E = int(getattr(base, "embed_dim"))  # noqa: B009  nn.Module types its attributes as modules
    A_in, B_in = like.new_zeros(rank, E), like.new_zeros(3 * E, rank)
    A_out, B_out = like.new_zeros(rank, E), like.new_zeros(E, rank)
    start = 0
    with torch.no_grad():
        for part in into:
            columns = slice(start, start := start + parts[part].recipe.rank)
            A_in[columns] = parts[part].lora_A
            B_in[_third(part, E), columns] = parts[part].lora_B * ratios[part]
        if "out" in parts:
            A_out[: parts["out"].recipe.rank] = parts["out"].lora_A
            B_out[:, : parts["out"].recipe.rank] = parts["out"].lora_B * (ratios["out"] / OUTPUT_TWICE)
    return _entry(reference, rank, rank_stabilized, {A: A_in, B: B_in, OUT_A: A_out, OUT_B: B_out})


def _unpack_attention(update: AttentionUpdate, rank: int, tensors: Mapping[str, Tensor], output_applied: float) -> None:
    """From packed parts; from PEFT's own pair, whose one A serves q, k and v, each part gets a copy of it."""
    parts = {part: update.factors_of(part) for part in update.parts}
    ratios, start = _common_scale(parts)[1], 0
    shared = _attention_rank(parts) != rank
    E = len(tensors[OUT_B])
    for part in (part for part in IN_PROJECTION if part in parts):
        columns = slice(None) if shared else slice(start, start := start + parts[part].recipe.rank)
        fill(parts[part], tensors[A][columns], tensors[B][_third(part, E), columns] / (ratios[part] or 1.0))
    if "out" in parts:
        R = parts["out"].recipe.rank
        B_out = tensors[OUT_B][:, :R] * output_applied
        fill(parts["out"], tensors[OUT_A][:R], B_out / (ratios["out"] or 1.0))


def _attention_rank(parts: Mapping[str, Factors]) -> int:
    into = sum(parts[part].recipe.rank for part in IN_PROJECTION if part in parts)
    return max(into, parts["out"].recipe.rank if "out" in parts else 0)


def _third(part: str, E: int) -> slice:
    number = IN_PROJECTION.index(part)
    return slice(number * E, (number + 1) * E)


# -- convolutions: PEFT's A is never grouped --------------------------------------------------------------------


def _pack_conv(update: ConvUpdate, base: nn.Module, rank_stabilized: bool) -> Packed:
    factors = update.factors_of(WHOLE)
    groups = int(getattr(base, "groups", 1))
    A_conv = factors.lora_A if update.is_dense(base) else _dense(factors.lora_A, groups)
    rank = factors.recipe.rank * groups
    return _entry(factors.recipe, rank, rank_stabilized, {A: A_conv, B: factors.lora_B})


def _unpack_conv(update: ConvUpdate, base: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    A_conv = tensors[A] if update.is_dense(base) else _blocked(tensors[A], int(getattr(base, "groups", 1)))
    fill(update.factors_of(WHOLE), A_conv, tensors[B])


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


def _pack_parameter(update: ParameterUpdate, name: str, rank_stabilized: bool) -> Packed:
    factors = update.factors_of(name)
    A_values, B_values = factors.lora_A.detach(), factors.lora_B.detach()
    if A_values.dim() == 3:
        A_values, B_values = A_values.flatten(0, 1), B_values.permute(1, 2, 0).flatten(1)
    return _entry(factors.recipe, factors.recipe.rank, rank_stabilized, {A: A_values, B: B_values}, name)


def _unpack_parameter(factors: Factors, tensors: Mapping[str, Tensor]) -> None:
    A_values, B_values = tensors[A], tensors[B]
    if factors.lora_A.dim() == 3:
        E = len(factors.lora_A)
        A_values = torch.unflatten(A_values, 0, (E, -1))
        B_values = torch.unflatten(B_values, 1, (-1, E)).permute(2, 0, 1)
    fill(factors, A_values, B_values)


def _tuple(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


FUSED_EXPERTS = "gate_up_proj"


EXPERTS_HAD = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


def reasons_against_peft(
    updates: Mapping[str, Update], bases: Mapping[str, nn.Module], stacks: Collection[str] = ()
) -> list[str]:
    """For every update that PEFT cannot express: its path and why. `stacks` are those of the model (`Adapter`)."""
    found = [
        f"{path}: PEFT takes a target of this name for the model's fused experts, and as a parameter it has no DoRA"
        for path in taken_for_experts(updates, stacks)
        if isinstance(updates[path], Magnitude)
    ]
    found += [
        f"{path}: PEFT adapts no {class_name(bases[path])}, and as a parameter it has no DoRA"
        for path in foreign_dense(updates, bases)
        if isinstance(updates[path], Magnitude)
    ]
    for path, update in updates.items():
        why = why_not_peft(update, bases[path])
        if why:
            found.append(f"{path}: {why}")
    adapted = [class_name(bases[path]) for path, update in updates.items() if len(update.parts)]
    if {"Conv1D", "MultiheadAttention"} <= set(adapted):
        found.append("PEFT transposes the update of an nn.MultiheadAttention beside that of a transformers Conv1D")
    stretched = [isinstance(update, Magnitude) for update in updates.values() if len(update.parts)]
    if any(stretched) and not all(stretched):
        found.append("PEFT trains the lengths of all adapted modules' weights (DoRA), or of none")
    invocations = {update.invocation for update in updates.values() if len(update.parts)}
    if len(invocations) > 1:
        found.append("PEFT has all adapted modules act from one invocation on (aLoRA), or from none")
    if any(invocations) and any(is_saved_in_full(update) for update in updates.values()):
        found.append("PEFT looks for an invocation (aLoRA) in causal language models alone, which have no fresh head")
    if not adapted:
        found.append("PEFT's LoRA needs a low-rank update, and this adapter has none")
    return found


def is_saved_in_full(update: Update) -> bool:
    """Whether the update is a module trained in full rather than a low-rank update or a bias."""
    return not len(update.parts) and not set(update.replacements()) <= BIASES


def taken_for_experts(updates: Mapping[str, Update], stacks: Collection[str]) -> list[str]:
    """Paths of the dense layers that PEFT would take for a model's fused experts if target_modules named them.

    In a model whose experts transformers 5 keeps in one tensor, PEFT 0.21 reads these names, which the experts' own
    layers had before, as the name of that tensor, for whatever layer they stand. As target_parameters it adapts them.
    """
    if FUSED_EXPERTS not in stacks:
        return []
    dense = [path for path, update in updates.items() if update.parts and isinstance(update, LinearUpdate)]
    return [path for path in dense if path.rpartition(".")[2] in EXPERTS_HAD]


def foreign_dense(updates: Mapping[str, Update], bases: Mapping[str, nn.Module]) -> list[str]:
    """Paths of dense layers of a class that PEFT does not know; as target_parameters it adapts them."""
    dense = [path for path, update in updates.items() if WHOLE in update.parts and isinstance(update, LinearUpdate)]
    return [path for path in dense if _is_foreign(bases[path])]


def _is_foreign(base: nn.Module) -> bool:
    weight = base._parameters.get(WHOLE)
    plain = weight is not None and weight.is_floating_point() and weight.dim() == 2  # not packed by quantisation
    return plain and not isinstance(base, nn.Linear) and class_name(base) not in ("Linear", "Conv1D")
