"""A new adapter from a weighted sum of others: ΔW = Σ wᵢ·ΔWᵢ, exactly or in a lower rank with its error.

Exact by rank concatenation: [B₁ … Bₙ]·diag(wᵢ·sᵢ)·[A₁; …; Aₙ] *is* the weighted sum, without the cross terms that
come from adding the A and the B separately. With a rank, that product is truncated by SVD, computed from QR of the
thin factors and never from ΔW itself.

What DoRA makes of a weight differs from it in full rank, so a sum with such an adapter has no exact low-rank form: it
is formed of W' − W in full and truncated, which takes a rank.

A head is fresh on every base, so it is no change of anything and no weight scales it: one is kept as it was trained.
A bias is the base's plus a change, and changes add up as those of weights do.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loralab.core.adapter import Adapter, AdapterSet, adapters_of
from loralab.core.attach import put
from loralab.core.names import unwrapped
from loralab.core.plan import Plan
from loralab.core.thin import low_rank_of, truncated
from loralab.core.updates.tokens import TokenUpdate
from loralab.core.updates.update import WHOLE, Update
from loralab.errors import SpecError
from loralab.nn.tensors import tensor_of, wide


@dataclass(frozen=True)
class Combination:
    """How a combined adapter came about: the weights, the rank if one was given, and the relative error by part."""

    weights: Mapping[str, float]
    rank: int | None
    errors: Mapping[str, float]

    @property
    def largest_error(self) -> float:
        """max ‖ΔW − ΔW'‖_F / ‖ΔW‖_F over the adapted matrices; 0 when exact."""
        return max(self.errors.values(), default=0.0)


def combine(model: nn.Module, weights: Mapping[str, float], name: str, rank: int | None = None) -> Adapter:
    """Put the weighted sum of adapters on the model as a new adapter, and make it active.

    `adapter.spec` is a `Combination`, which says the truncation error where `rank` is given. Raises SpecError for
    adapters that cannot be summed (heads that differ, dense and blocked grouped convolutions, prefixes), and for DoRA
    without a rank. A head that one of them has, or that is the same in all that have it, is kept whole.
    """
    adapters = adapters_of(model)
    adapters.refuse_merged("combine()")
    if not weights:
        raise SpecError("combine() was given no adapters; give a weight for each, as {'sql': 0.7, 'chat': 0.3}")
    if rank is not None and rank < 1:
        raise SpecError(f"rank {rank} is too small for a sum: give at least 1, or None for the exact one")
    chosen = {key: adapters.adapter(key) for key in weights}
    heads = dict.fromkeys(head for adapter in chosen.values() for head in adapter.heads)
    kept = {path: _kept_head(path, chosen) for path in heads}
    errors: dict[str, float] = {}
    updates = {
        path: _combined(path, unwrapped(adapters.layers[path]), _weighted(path, chosen, weights), rank, errors)
        for path in _paths(adapters, chosen)
        if path not in kept
    }
    updates |= {path: copy.deepcopy(update) for path, (update, _) in kept.items()}
    plan = Plan(updates, tuple(note for _, note in kept.values()), tuple(heads))
    return put(model, plan, Combination(dict(weights), rank, errors), name)


def _paths(adapters: AdapterSet, chosen: Mapping[str, Adapter]) -> list[str]:
    return [path for path in adapters.layers if any(path in adapter.updates for adapter in chosen.values())]


def _weighted(path: str, chosen: Mapping[str, Adapter], weights: Mapping[str, float]) -> list[tuple[float, Update]]:
    return [(weight, chosen[key].updates[path]) for key, weight in weights.items() if path in chosen[key].updates]


def _combined(
    path: str,
    base: nn.Module,
    weighted: Sequence[tuple[float, Update]],
    rank: int | None,
    errors: dict[str, float],
) -> Update:
    """The update whose ΔW is the weighted sum at one module."""
    if any(isinstance(update, TokenUpdate) for _, update in weighted):
        raise SpecError(
            f"these adapters cannot be combined: they train rows of {path} (trainable_token_indices), which replace "
            "the base's and have no sum; combine adapters without them, or serve each by itself"
        )
    low_rank = [(weight, update) for weight, update in weighted if update.is_insertion]
    combined = _fresh(path, [update for _, update in low_rank], rank)
    for part in list(combined.parts):
        having = [(weight, update) for weight, update in low_rank if part in update.parts]
        A, B, errors[f"{path}.{part}"] = _part(base, part, having, rank)
        combined.set_matrices(part, A, B)
    for name, tensor in _summed_biases(path, base, weighted).items():
        combined.replace(name, tensor)
    return combined


def _fresh(path: str, updates: Sequence[Update], rank: int | None) -> Update:
    """An update with the parts of all of these, their values still to be set."""
    if not updates:
        return Update({})
    _refuse_unlike(path, updates, rank)
    fresh = copy.deepcopy(updates[0].without_lengths().plain())
    fresh.replaced = nn.Module()
    for update in updates[1:]:
        fresh.adopt_parts(update)
    return fresh


def _part(
    base: nn.Module, part: str, having: Sequence[tuple[float, Update]], rank: int | None
) -> tuple[Tensor, Tensor, float]:
    """(A, B) of the weighted sum in one part, and its relative error."""
    if rank is None or all(update.adds_up for _, update in having):
        return _sum([(weight, update.matrices(part)) for weight, update in having], rank)
    changes = [weight * update.change(base, part) for weight, update in having]
    return low_rank_of(sum(changes[1:], changes[0]), rank)


def _refuse_unlike(path: str, updates: Sequence[Update], rank: int | None) -> None:
    for update in updates:
        if update.why_not_merged:
            raise SpecError(
                f"these adapters cannot be combined: one is, at {path}, {update.why_not_merged}; only low-rank updates "
                "and biases have a sum"
            )
    if rank is None and not all(update.adds_up for update in updates):
        raise SpecError(
            f"these adapters stretch the weights of {path} to trained lengths (DoRA): their change is of full rank and "
            "has no exact low-rank sum; give rank=… for the nearest one of that rank; adapter.spec.errors says how near"
        )
    shapes = {(type(update.without_lengths()), WHOLE in update.parts) for update in updates}
    inputs = {update.matrices(part)[0].shape[-1] for update in updates for part in update.parts if part == WHOLE}
    if len(shapes) > 1 or len(inputs) > 1:
        raise SpecError(f"these adapters cannot be combined: their updates of {path} are of different kinds")


def _sum(pairs: Sequence[tuple[float, tuple[Tensor, Tensor]]], rank: int | None) -> tuple[Tensor, Tensor, float]:
    """(A, B) of Σ w·B·A, and the relative error of their truncation to `rank`."""
    A = torch.cat([A for _, (A, _) in pairs], dim=-2)
    B = torch.cat([weight * B for weight, (_, B) in pairs], dim=-1)
    if rank is None or rank >= A.shape[-2]:
        return A, B, 0.0
    return truncated(A, B, rank)


def _kept_head(path: str, chosen: Mapping[str, Adapter]) -> tuple[Update, str]:
    """The head at this path, and what to tell of it. SpecError where two adapters trained different ones."""
    owners = {name: adapter.updates[path] for name, adapter in chosen.items() if path in adapter.updates}
    first, *others = owners
    different = [name for name in others if not _is_same(owners[first], owners[name])]
    if different:
        raise SpecError(
            f"these adapters cannot be combined: they train {path} in full, and '{first}' and '{different[0]}' hold "
            "different copies of it, which have no sum; combine adapters of one head, or leave one of them out"
        )
    return owners[first], f"{path} is as '{first}' trained it: what is trained in full is kept whole, and not weighted"


def _summed_biases(path: str, base: nn.Module, weighted: Sequence[tuple[float, Update]]) -> dict[str, Tensor]:
    """Tensor name → b + Σ w·(b' − b) over the adapters that train it. SpecError for anything but biases."""
    names = dict.fromkeys(name for _, update in weighted for name in update.replacements())
    full = [name for name in names if not name.endswith("bias")]
    if full:
        raise SpecError(
            f"these adapters cannot be combined: they train {path} in full ({', '.join(full)}) beside their head; only "
            "low-rank updates and biases have a sum"
        )
    return {name: _summed_bias(tensor_of(base, name), name, weighted) for name in names}


@torch.no_grad()
def _summed_bias(own: Tensor, name: str, weighted: Sequence[tuple[float, Update]]) -> Tensor:
    total = own.to(wide(own), copy=True)
    for weight, update in weighted:
        trained = update.replacements().get(name)
        if trained is not None:
            total += weight * (trained - own)
    return total


def _is_same(one: Update, other: Update) -> bool:
    ours, theirs = one.replacements(), other.replacements()
    no_more = not one.is_insertion and not other.is_insertion
    return no_more and ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
