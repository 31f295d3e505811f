"""An adapter on a model, cut to a lower rank for as long as a block lasts.

Every update is cut by itself to its best one of that rank (see `core/thin.py`); what has no more than that rank
stays as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from loralab.analysis.adapters.parts import Cell, cells_of, replaced_factors
from loralab.core.adapter import Adapter
from loralab.core.thin import Thin
from loralab.core.updates.factors import Factors


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
