"""GaLore: full fine-tuning through the main directions of every weight's gradient (arXiv 2403.03507).

    P: the first r singular vectors of G on its smaller side;   g = Pᵀ·G,   u = Adam(g),   W ← W − lr·α·P·u

As the authors' code has it: P anew every 200 steps, α = 0.25, moments kept over a
refresh, weight decay of the whole weight. Two things differ in how, not in what is computed: the singular vectors come
from G·Gᵀ, and between refreshes g is computed as (g_out·P)ᵀ·x, so that G (in the authors' code formed in every step)
is not. With that GaLore is leaner here than published: a projected gradient of r·n instead of m·n. The authors' own
defaults have rank 128.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from loralab.core.projection import Projection, principal_basis
from loralab.methods.projected import ProjectedFineTune, ProjectedWeight, StateOnRefresh


@dataclass(frozen=True)
class GaLore(ProjectedFineTune):
    """Every parameter trains; each dense layer's weight in the r main directions of its gradient."""

    state_on_refresh: StateOnRefresh = "keep"

    def choose(self, G_MN: Tensor, rank: int, generator: torch.Generator) -> Projection:
        return principal_basis(G_MN, rank)

    def projection_elements(self, weight: ProjectedWeight) -> int:
        return weight.rank * weight.shape[0]
