"""Parts of an adapter switched off, cut to a lower rank or given other factors for as long as a block lasts; the
model is not copied.

Afterwards the very same factors are in their places again, so that the model computes what it did, bit for bit.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from loralab.core.adapter import Adapter
from loralab.core.attach import disabled
from loralab.core.thin import Thin
from loralab.core.updates.factors import Factors
from loralab.errors import SpecError

Cell = tuple[str, str]
"""A module's path and the part of its weight that one factor pair updates."""


def cells_of(adapter: Adapter) -> list[Cell]:
    """Every factor pair of an adapter. Raises SpecError where there are none."""
    cells = [(path, part) for path, update in adapter.updates.items() for part in update.parts]
    if not cells:
        kind = type(adapter.spec).__name__
        raise SpecError(f"adapter '{adapter.name}' ({kind}) has no low-rank factors to switch off or cut")
    return cells


def has_more(adapter: Adapter) -> bool:
    """Whether it holds anything beside low-rank factors: a head, biases, a prefix."""
    return any(update.replacements() or update.adds_tensors for update in adapter.updates.values())


@contextmanager
def replaced_factors(adapter: Adapter, factors: Mapping[Cell, Factors]) -> Iterator[None]:
    """Within this block these pairs have other factors."""
    before = {(path, part): adapter.updates[path].delta_of(part) for path, part in factors}
    try:
        for (path, part), other in factors.items():
            adapter.updates[path].parts[part] = other
        yield
    finally:
        for (path, part), own in before.items():
            adapter.updates[path].parts[part] = own


@contextmanager
def switched_off(model: nn.Module, adapter: Adapter, cells: Collection[Cell]) -> Iterator[None]:
    """Within this block the updates of these factor pairs are zero.

    A module that has nothing else computes as the base does; with everything off the model is its base, bit for bit.
    """
    off = set(cells)
    if off == set(cells_of(adapter)) and not has_more(adapter):
        with disabled(model):
            yield
        return
    zeros = {(path, part): _zero(adapter.updates[path].delta_of(part).as_lora()) for path, part in off}
    silent = [path for path in dict.fromkeys(path for path, _ in cells) if _is_all_off(adapter, path, off)]
    with replaced_factors(adapter, zeros):
        try:
            for path in silent:
                adapter.layers[path].drop(adapter.name)
            yield
        finally:
            for path in silent:
                adapter.layers[path].put(adapter.name, adapter.updates[path])


def _is_all_off(adapter: Adapter, path: str, off: Collection[Cell]) -> bool:
    update = adapter.updates[path]
    more = bool(update.replacements() or update.adds_tensors)
    return not more and all((path, part) in off for part in update.parts)


def _zero(factors: Factors) -> Factors:
    """B is zero, so that A's precision does not count."""
    made = Factors.of(factors.lora_A.detach(), torch.zeros_like(factors.lora_B), factors.recipe.rank, factors)
    return made.train(factors.training)


class Truncation:
    """The singular directions of all updates of an adapter, worked out once."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.cells: dict[Cell, Thin] = {}
        for path, part in cells_of(adapter):
            self.cells[path, part] = Thin.of(*adapter.updates[path].matrices(part))

    @property
    def rank(self) -> int:
        """The highest rank of any update."""
        return max(self.rank_of(cell) for cell in self.cells)

    def rank_of(self, cell: Cell) -> int:
        """R, of one pair's factors."""
        path, part = cell
        return int(self.adapter.updates[path].delta_of(part).as_lora().recipe.rank)

    @property
    def energies(self) -> dict[Cell, Tensor]:
        """σ² of every update, falling."""
        return {cell: update.energy_K for cell, update in self.cells.items()}

    def energy_kept(self, rank: int) -> float:
        """The share of Σ‖ΔW‖²_F over all updates that this rank keeps; 1 for an adapter of zeros."""
        whole = sum(float(energy.sum()) for energy in self.energies.values())
        return sum(float(energy[:rank].sum()) for energy in self.energies.values()) / whole if whole else 1.0

    @contextmanager
    def to(self, rank: int) -> Iterator[None]:
        """Within this block no update has more than this rank (from 1)."""
        cut = {cell: self._cut(cell, rank) for cell in self.cells if self.rank_of(cell) > rank}
        with replaced_factors(self.adapter, cut):
            yield

    def _cut(self, cell: Cell, rank: int) -> Factors:
        """Made by the update itself, which knows how its kind stores matrices, and taken out of it again."""
        path, part = cell
        update = self.adapter.updates[path]
        before = update.delta_of(part)
        update.set_matrices(part, *_of_rank(self.cells[cell], rank, before.as_lora().lora_A.dtype))
        cut = update.factors_of(part)
        update.parts[part] = before
        return cut.train(before.training)


def _of_rank(update: Thin, rank: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    A, B = update.cut(rank)
    return A.to(dtype), B.to(dtype)
