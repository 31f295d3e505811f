"""Full fine-tuning whose optimizer works on projected gradients: Grass (arXiv 2406.17660) and GaLore (2403.03507).

Everything trains and is stored as by `FullFineTune`. The weights of dense layers are moved through r dimensions at a
time; embeddings, norms, biases and the output head have a plain AdamW. The optimizer is training/projected_adamw.py.

Numbers per weight [m, n], m the smaller side:

    the base's own                       m·n    in its precision, kept for `disabled` and `detach`
    the trained copy                     m·n    float32; both as in full fine-tuning, 6 bytes together on bfloat16
    gradient, Adam's moments             r·n, 2·r·n    instead of m·n, 2·m·n: 12 bytes of every number less, but r/m
    projection                           2·r (Grass), r·m (GaLore)

A full gradient stands for one weight at a time in a step that chooses anew, or for all of them where that step has
several batches (`accumulate`): the choice is by their sum.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from loralab.core.names import inside, modules_by_path, unwrapped
from loralab.core.plan import Plan
from loralab.core.projection import ROW_CHOICES, Projection, chosen_rows, principal_basis, projected_linear, wide_linear
from loralab.core.updates.low_rank import is_plain_product
from loralab.core.updates.update import WHOLE, Update
from loralab.errors import SpecError
from loralab.methods.full import FullFineTune
from loralab.methods.specification import choice_problems, count_problems
from loralab.models.families.aliases import output_head_names
from loralab.nn.dense import dense_shape, is_dense, is_stored_transposed

StateOnRefresh = Literal["reset", "carry", "keep"]


@dataclass(frozen=True)
class ProjectedWeight:
    """The weight of one dense layer, [out, in] (or stored transposed), and the side of it that is projected to r."""

    path: str
    out_features: int
    in_features: int
    stored_transposed: bool
    most: int
    """The rank of the settings."""

    @property
    def name(self) -> str:
        """Of its trained copy in the adapter."""
        return f"{self.path}.{WHOLE}"

    @property
    def of_outputs(self) -> bool:
        """Whether the outputs are the smaller side; where both are equal it is they."""
        return self.out_features <= self.in_features

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n): the projected side and the other one."""
        sides = self.out_features, self.in_features
        return min(sides), max(sides)

    @property
    def rank(self) -> int:
        """r: the rank of the settings, or the whole side where that is smaller."""
        return min(self.most, self.shape[0])

    def canonical(self, stored: Tensor) -> Tensor:
        """A tensor of the weight's layout as [m, n]: itself or a transposed view."""
        return stored.T if self.of_outputs == self.stored_transposed else stored

    def torch_layout(self, stored: Tensor) -> Tensor:
        """The tensor as [out, in]."""
        return stored.T if self.stored_transposed else stored


class ProjectedUpdate(Update):
    """Trained copies of a dense layer's tensors, whose weight's gradient comes projected once it is told how.

    Full gradients, which a new projection is chosen from, come to the weight itself; projected ones to `stand_in`.
    """

    def __init__(self, site: ProjectedWeight, copied: Update) -> None:
        """Of the layer at `site`, with the trained copies that full fine-tuning made, themselves."""
        super().__init__({})
        self.replaced = copied.replaced
        self.site = site
        self._by: tuple[Projection, nn.Parameter] | None = None

    def project(self, projection: Projection | None, stand_in: nn.Parameter) -> None:
        """From now on the gradient comes projected, to `stand_in`; in full for None."""
        self._by = None if projection is None else (projection, stand_in)

    @property
    def weight(self) -> nn.Parameter:
        """The trained copy."""
        weight = self.replacements()[WHOLE]
        assert isinstance(weight, nn.Parameter)
        return weight

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The dense layer; how its gradient will be formed is decided here."""
        x = args[0]
        if kwargs or not torch.is_grad_enabled() or not is_plain_product(base, x):
            return super().forward(base, *args, **kwargs)
        W_OI, bias = self.site.torch_layout(self.weight), self.replacements().get("bias")
        if self._by is None:
            return wide_linear(x, W_OI, bias)
        projection, stand_in = self._by
        return projected_linear(x, W_OI, bias, stand_in, projection, self.site.of_outputs)

    def stored_form(self) -> Update:
        """What it learns is copies, however their gradients come."""
        stored = Update({})
        stored.replaced = self.replaced
        return stored


@dataclass(frozen=True)
class ProjectedFineTune(FullFineTune, ABC):
    """What an optimizer on projected gradients is told. Use `Grass` or `GaLore`."""

    rank: int = 8
    """r: of how many dimensions a weight's gradient and moments are."""
    refresh_every: int = 200
    """K: a new projection, from that step's full gradient, every so many steps."""
    projection_scale: float = 0.25
    """α: the step of projected weights beside that of all others, which is lr."""
    state_on_refresh: StateOnRefresh = "reset"
    """What becomes of Adam's moments when the projection changes."""
    refresh_warmup: int = 0
    """Steps after a refresh in which the step of projected weights rises again."""

    states: ClassVar[tuple[str, ...]] = ("reset", "keep")
    """What `state_on_refresh` may be."""

    def problems(self) -> list[str]:
        found = [*super().problems(), *count_problems(self, "rank", "refresh_every")]
        found += choice_problems(self, "state_on_refresh", self.states)
        if self.refresh_warmup < 0:
            found.append(f"refresh_warmup is {self.refresh_warmup} and must be a whole number from 0")
        if not 0 < self.projection_scale < float("inf"):
            found.append(f"projection_scale is {self.projection_scale!r} and must be a finite number above 0")
        return found

    def plan(self, model: nn.Module) -> Plan:
        """As full fine-tuning. SpecError where no weight has `rank` dimensions."""
        plan = super().plan(model)
        weights = projected_weights(model, plan.updates, plan.heads, self.rank)
        largest = max((weight.shape[0] for weight in weights.values()), default=0)
        if self.rank > largest:
            found = f"the smaller side of the largest has {largest}" if weights else "there are none"
            raise SpecError(
                f"{type(self).__name__} was asked to project the weights of dense layers to rank {self.rank}, but "
                f"{found}; choose a lower rank, or full fine-tuning"
            )
        note = (
            f"{type(self).__name__}: {len(weights)} weights through {self.rank} dimensions each, anew every "
            f"{self.refresh_every} steps; all other tensors by AdamW"
        )
        whole = sum(weight.rank == weight.shape[0] for weight in weights.values())
        also = (f"{whole} of them have no more than {self.rank} rows and train whole",) if whole else ()
        moved = {path: ProjectedUpdate(each, plan.updates[path]) for path, each in weights.items()}
        return replace(plan, updates={**plan.updates, **moved}, notes=(*plan.notes, note, *also))

    @abstractmethod
    def choose(self, G_MN: Tensor, rank: int, generator: torch.Generator) -> Projection:
        """The projection for the next K steps, from a weight's full gradient."""

    @abstractmethod
    def projection_elements(self, weight: ProjectedWeight) -> int:
        """How many numbers this weight's projection is made of."""


def projected_weights(
    model: nn.Module, updates: Mapping[str, Update], heads: Sequence[str], rank: int
) -> dict[str, ProjectedWeight]:
    """Path → the weight there that is projected: of every dense layer that trains in full, but for output heads and
    weights that several modules share (a tied embedding)."""
    by_path, left_out = modules_by_path(model), output_head_names(unwrapped(model))
    holders: dict[int, int] = {}
    for update in updates.values():
        for tensor in update.replacements().values():
            holders[id(tensor)] = holders.get(id(tensor), 0) + 1
    found = {}
    for path, update in updates.items():
        weight = update.replacements().get(WHOLE)
        in_head = path in left_out or inside(path, heads)
        if weight is None or in_head or weight.dim() != 2 or holders[id(weight)] > 1 or not is_dense(by_path[path]):
            continue
        out_features, in_features = dense_shape(by_path[path])
        transposed = is_stored_transposed(by_path[path])
        found[path] = ProjectedWeight(path, out_features, in_features, transposed, rank)
    return found


RowChoice = Literal["top", "norm", "norm-replace", "norm2", "uniform"]


@dataclass(frozen=True)
class Grass(ProjectedFineTune):
    """Every parameter trains; of each dense layer's weight r rows (or columns, of the smaller side) at a time.

        g = Pᵀ·G = ρ_j·G[σ_j, :],   u = Adam(g),   W[σ_j, :] ← W[σ_j, :] − lr·α·ρ_j·u[j, :]

    No reference code of the authors exists; what this follows, and how sure it is:

    - from the abstract: Pᵀ = ρ·S picks rows, projecting is indexing, and the full gradient is not needed in
      between; moments are set to zero at a refresh (an independent write-up). Both are the default here.
    - derived, and held by tests: ρ = 1/√(r·q) makes the projection unbiased; with B = P frozen it is a LoRA, merged
      and started anew every K steps.
    - recalled, and so options: `row_choice` top with ρ = 1 as the best rule, ρ = 1 for `norm`, K = 200, α = 0.25
      (GaLore's value; 1 moves the chosen rows as full fine-tuning does), a short warmup after a refresh
      (`refresh_warmup`, none by default).
    - own choices: `largest_factor`, for Adam undoes the scale of a row's gradient but not that of its step; on
      equal sides the outputs are projected; weight decay is for the chosen rows; `carry` keeps the moments and
      Adam's count of steps of the rows that stay chosen.
    """

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


@dataclass(frozen=True)
class GaLore(ProjectedFineTune):
    """Every parameter trains; each dense layer's weight in the r main directions of its gradient.

        P: the first r singular vectors of G on its smaller side;   g = Pᵀ·G,   u = Adam(g),   W ← W − lr·α·P·u

    As the authors' code has it: P anew every 200 steps, α = 0.25, moments kept over a refresh, weight decay of the
    whole weight. Two things differ in how, not in what is computed: the singular vectors come from G·Gᵀ, and
    between refreshes g is computed as (g_out·P)ᵀ·x, so that G (in the authors' code formed in every step) is not.
    With that GaLore is leaner here than published: a projected gradient of r·n instead of m·n. The authors' own
    defaults have rank 128.
    """

    state_on_refresh: StateOnRefresh = "keep"

    def choose(self, G_MN: Tensor, rank: int, generator: torch.Generator) -> Projection:
        return principal_basis(G_MN, rank)

    def projection_elements(self, weight: ProjectedWeight) -> int:
        return weight.rank * weight.shape[0]
