"""Grass: full fine-tuning through a few chosen rows of every weight (arXiv 2406.17660).

    g = Pᵀ·G = ρ_j·G[σ_j, :],   u = Adam(g),   W[σ_j, :] ← W[σ_j, :] − lr·α·ρ_j·u[j, :]

No reference code of the authors exists; what this follows, and how sure it is:

- from the abstract: Pᵀ = ρ·S picks rows, projecting is indexing, and the full gradient is not needed in between;
  moments are set to zero at a refresh (an independent write-up). Both are the default here.
- derived, and held by tests: ρ = 1/√(r·q) makes the projection unbiased; with B = P frozen it is a LoRA, merged and
  started anew every K steps.
- recalled, and so options: `row_choice` top with ρ = 1 as the best rule, ρ = 1 for `norm`, K = 200, α = 0.25 (GaLore's
  value; 1 moves the chosen rows as full fine-tuning does), a short warmup after a refresh (`refresh_warmup`, none by
  default).
- own choices: `largest_factor`, for Adam undoes the scale of a row's gradient but not that of its step; on equal
  sides the outputs are projected; weight decay is for the chosen rows; `carry` keeps the moments and Adam's count of
  steps of the rows that stay chosen.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from loralab.core.projection import ROW_CHOICES, Projection, chosen_rows
from loralab.methods.projected import ProjectedFineTune, ProjectedWeight
from loralab.methods.specification import choice_problems

RowChoice = Literal["top", "norm", "norm-replace", "norm2", "uniform"]


@dataclass(frozen=True)
class Grass(ProjectedFineTune):
    """Every parameter trains; of each dense layer's weight r rows (or columns, of the smaller side) at a time."""

    row_choice: RowChoice = "top"
    """How rows are chosen from the lengths g_i of the gradient's rows. `top`: the longest, ρ = 1. `norm`: drawn at
    q ∝ g without repetition, ρ = 1. `norm-replace`: drawn at q ∝ g, ρ = 1/√(r·q). `norm2`: at q ∝ g², likewise.
    `uniform`: all alike, without repetition, ρ = √(m/r)."""

    largest_factor: float | None = None
    """No ρ is above it: Adam undoes a row's scale, so one that is rarely drawn takes a step ρ times as long. None: as
    the rule has it."""

    states: ClassVar[tuple[str, ...]] = ("reset", "carry", "keep")

    def problems(self) -> list[str]:
        said = choice_problems(self, "row_choice", ROW_CHOICES)
        if self.largest_factor is not None and not self.largest_factor > 0:
            said.append(f"largest_factor is {self.largest_factor!r} and must be above 0")
        return [*super().problems(), *said]

    def choose(self, G_MN: Tensor, rank: int, generator: torch.Generator) -> Projection:
        return chosen_rows(G_MN, rank, self.row_choice, generator, self.largest_factor)

    def projection_elements(self, weight: ProjectedWeight) -> int:
        return 2 * weight.rank
