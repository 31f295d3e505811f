"""A new adapter from a weighted sum of others: ΔW = Σ wᵢ·ΔWᵢ, exactly or in a lower rank with its error.

Exact by rank concatenation: [B₁ … Bₙ]·diag(wᵢ·sᵢ)·[A₁; …; Aₙ] *is* the weighted sum, without the cross terms that
come from adding the A and the B separately. With a rank, that product is truncated by SVD, computed from QR of the
thin factors and never from ΔW itself.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loralab.core.adapter import Adapter, AdapterSet, Plan, adapters_of
from loralab.core.attach import attach
from loralab.core.math import truncated
from loralab.core.tokens import TokenUpdate
from loralab.core.update import WHOLE, Update
from loralab.errors import SpecError


@dataclass(frozen=True)
class Combination:
    """How a combined adapter came about: the weights, the rank asked for, and the relative error by part."""

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
    adapters that cannot be summed (tensors trained in full that differ, dense and blocked grouped convolutions).
    """
    adapters = adapters_of(model)
    if not weights:
        raise SpecError("combine() was given no adapters; give a weight for each, as {'sql': 0.7, 'chat': 0.3}")
    if rank is not None and rank < 1:
        raise SpecError(f"combine() was asked for rank {rank}; give a rank of at least 1, or None for the exact sum")
    chosen = {key: adapters.adapter(key) for key in weights}
    errors: dict[str, float] = {}
    updates = {
        path: _combined(path, _weighted(path, chosen, weights), rank, errors) for path in _paths(adapters, chosen)
    }
    spec = _Combined(Plan(updates), Combination(dict(weights), rank, errors))
    adapter = attach(model, spec, name)
    adapter.spec = spec.combination
    return adapter


@dataclass(frozen=True)
class _Combined:
    """A method whose plan is made already."""

    made: Plan
    combination: Combination

    def plan(self, model: nn.Module) -> Plan:
        return self.made


def _paths(adapters: AdapterSet, chosen: Mapping[str, Adapter]) -> list[str]:
    return [path for path in adapters.layers if any(path in adapter.updates for adapter in chosen.values())]


def _weighted(path: str, chosen: Mapping[str, Adapter], weights: Mapping[str, float]) -> list[tuple[float, Update]]:
    return [(weight, chosen[key].updates[path]) for key, weight in weights.items() if path in chosen[key].updates]


def _combined(
    path: str, weighted: Sequence[tuple[float, Update]], rank: int | None, errors: dict[str, float]
) -> Update:
    """The update whose ΔW is the weighted sum at one module."""
    updates = [update for _, update in weighted]
    _refuse_unlike(path, updates)
    combined = copy.deepcopy(updates[0].plain())
    for update in updates[1:]:
        combined.adopt_parts(update)
    for part in list(combined.parts):
        pairs = [(weight, update.matrices(part)) for weight, update in weighted if part in update.parts]
        A, B, errors[f"{path}.{part}"] = _sum(pairs, rank)
        combined.set_matrices(part, A, B)
    return combined


def _refuse_unlike(path: str, updates: Sequence[Update]) -> None:
    if any(update.replacements() for update in updates):
        raise SpecError(
            f"combine() was asked for adapters that train {path} in full (a head or a bias); only low-rank updates "
            "have a sum: combine adapters without modules_to_save and bias"
        )
    if any(isinstance(update, TokenUpdate) for update in updates):
        raise SpecError(
            f"combine() was asked for adapters that train rows of {path} (trainable_token_indices), which stand in the "
            "place of the base's and have no sum; combine adapters without them, or serve each by itself"
        )
    if not all(update.adds_up for update in updates):
        raise SpecError(
            f"combine() was asked for adapters that stretch the weights of {path} to trained lengths (DoRA): each "
            "rescales what the others would add to, so they have no sum"
        )
    shapes = {(type(update), WHOLE in update.parts) for update in updates}
    inputs = {update.matrices(part)[0].shape[-1] for update in updates for part in update.parts if part == WHOLE}
    if len(shapes) > 1 or len(inputs) > 1:
        raise SpecError(f"combine() was asked for adapters whose updates of {path} are of different kinds")


def _sum(pairs: Sequence[tuple[float, tuple[Tensor, Tensor]]], rank: int | None) -> tuple[Tensor, Tensor, float]:
    """(A, B) of Σ w·B·A, and the relative error of their truncation to `rank`."""
    A = torch.cat([A for _, (A, _) in pairs], dim=-2)
    B = torch.cat([weight * B for weight, (_, B) in pairs], dim=-1)
    if rank is None or rank >= A.shape[-2]:
        return A, B, 0.0
    return truncated(A, B, rank)
