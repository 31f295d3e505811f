"""What all methods of low-rank updates have in common: which modules they adapt, and the plan made of that.

A method is its fields, a `recipe` for each matrix and a `makers` that says how the update of a matrix is made.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import nn

from loralab.core.names import inside, modules_by_path
from loralab.core.plan import Plan
from loralab.core.targets import Pattern, Target, find_targets, split_patterns
from loralab.core.updates.build import Maker, Site, build, spots
from loralab.core.updates.factors import Recipe, SharedMatrices, Spot
from loralab.core.updates.update import WHOLE
from loralab.errors import SpecError
from loralab.methods.all_linear import ALL_LINEAR, all_linear, left_out_notes
from loralab.methods.beside import add_biases, head_updates, heads_of, tie_notes
from loralab.methods.specification import (
    Specification,
    choice_problems,
    count_problems,
    dropout_problems,
    number_problems,
)
from loralab.methods.wide_ranks import rank_notes
from loralab.models.families.aliases import default_targets, expand_alias, family_of, fused_layout
from loralab.nn.dense import dense_shape, is_dense

BIASES = ("none", "all", "lora_only")
ALIASES = ("attention", "q", "k", "v", "o", "mlp", ALL_LINEAR)


@dataclass(frozen=True, kw_only=True)
class LowRankMethod(Specification, ABC):
    """W frozen, and a low-rank update of it on chosen modules."""

    targets: str | Sequence[str] | None = None
    """Module names, endings or regular expressions; `attention`, `all-linear`, `q`, `k`, `v`, `o`, `mlp`; parts of a
    fused projection as `c_attn[q,v]`. None: the q and v of the model's family."""
    exclude: str | Sequence[str] = ()
    """Patterns of modules to leave out, of those that `targets` names."""
    layers: Sequence[int] | None = None
    """Only the blocks with these numbers."""
    bias: str = "none"
    """Which biases train: `none`, `all` of the model, `lora_only` those of adapted modules."""
    modules_to_save: Sequence[str] | None = None
    """Modules trained and saved in full. None: a classification head on a pretrained body is found and included."""
    fused: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    """For fused projections of an unknown family: module ending → part → its output rows."""

    rank_within_width: ClassVar[bool] = True
    """Whether a rank above a layer's own width makes no sense."""

    @abstractmethod
    def recipe(self, path: str) -> Recipe:
        """Rank, alpha and the rest for one module or part (`c_attn[q]`)."""

    def makers(self, model: nn.Module, found: Sequence[Spot]) -> tuple[Maker | None, SharedMatrices | None]:
        """How the update of each of these matrices is made (None: as a plain pair), and what they share."""
        return None, None

    def site(self, target: Target, layout: Mapping[str, torch.Tensor] | None) -> Site:
        """One target with its recipes."""
        paths = {part: target.path if part == WHOLE else f"{target.path}[{part}]" for part in target.parts}
        recipes = {part: self.recipe(path) for part, path in paths.items()}
        return Site(target.path, target.module, recipes, layout)

    def plan(self, model: nn.Module) -> Plan:
        """The updates of all targets, of the biases asked for, and of the modules trained in full."""
        heads = heads_of(model, self.modules_to_save)
        sites = self._sites(model, heads)
        found = [spot for site in sites if is_dense(site.module) for spot in spots(site).values()]
        self._check_ranks(sites)
        make, shared = self.makers(model, found)
        updates = {site.path: build(site.made_by(make)) for site in sites}
        notes = left_out_notes(model, heads, updates) if ALL_LINEAR in split_patterns(self.targets or "") else []
        add_biases(model, updates, self.bias, heads)
        updates |= head_updates(model, heads)
        return Plan(updates, (*notes, *rank_notes(updates), *tie_notes(model, updates)), tuple(heads), shared)

    def _sites(self, model: nn.Module, heads: Sequence[str]) -> list[Site]:
        named = self._named(model, heads)
        found = []
        for target in self.find(model, heads):
            unnamed = not any(pattern.matches_any((target.path, f"{target.path}.{WHOLE}")) for pattern in named)
            site = self.site(target, self._layout(model, target))
            found.append(replace(site, any_rank=unnamed and self.takes_any_rank(target.path)))
        return found

    def _named(self, model: nn.Module, heads: Sequence[str]) -> list[Pattern]:
        """What is targeted by more than the word `all-linear`."""
        patterns = default_targets(model) if self.targets is None else split_patterns(self.targets)
        named = [pattern for pattern in patterns if pattern != ALL_LINEAR]
        return [Pattern.of(each) for pattern in named for each in _expand(model, pattern, heads)]

    def takes_any_rank(self, path: str) -> bool:
        """Whether a layer that only `all-linear` names may have a rank above its width."""
        return False

    def _check_ranks(self, sites: Sequence[Site]) -> None:
        dense = [site for site in sites if self.rank_within_width and is_dense(site.module)]
        for site in dense:
            for part, spot in spots(site).items():
                site.check_rank(part, spot.path, spot.out_features, spot.in_features)

    def find(self, model: nn.Module, heads: Sequence[str]) -> list[Target]:
        """The modules to adapt. Raises TargetError where a pattern names nothing."""
        patterns = default_targets(model) if self.targets is None else split_patterns(self.targets)
        exclude = split_patterns(self.exclude)
        expanded: list[str] = []
        for pattern in patterns:
            expanded.extend(_expand(model, pattern, heads))
        targets = find_targets(model, dict.fromkeys(expanded), exclude, self.layers)
        in_head = [target.path for target in targets if inside(target.path, heads)]
        if in_head and self.modules_to_save is not None:
            raise SpecError(f"{', '.join(in_head)} is both a target and in modules_to_save; choose one")
        return [target for target in targets if target.path not in in_head]

    def _layout(self, model: nn.Module, target: Target) -> Mapping[str, torch.Tensor] | None:
        if target.parts == (WHOLE,) or not is_dense(target.module):
            return None
        for ending, parts in self.fused.items():
            if target.path == ending or target.path.endswith("." + ending):
                return {part: torch.as_tensor(rows, dtype=torch.long) for part, rows in parts.items()}
        return fused_layout(model, target.path, dense_shape(target.module)[0])

    def problems(self) -> list[str]:
        found = choice_problems(self, "bias", BIASES)
        if self.targets is not None and not split_patterns(self.targets):
            found.append("targets is empty; name modules, or leave it out for the family's q and v")
        return found


@dataclass(frozen=True)
class ScaledMethod(LowRankMethod):
    """A low-rank method with one rank, one alpha and one dropout for all matrices."""

    rank: int = 8
    """The rank r."""
    alpha: float = 16.0
    """The numerator of the scale alpha/rank."""
    dropout: float = 0.0
    """Dropout on the input of the low-rank path only."""

    def recipe(self, path: str) -> Recipe:
        return Recipe(self.rank, float(self.alpha), self.dropout)

    def problems(self) -> list[str]:
        numbers = [*count_problems(self, "rank"), *number_problems(self, "alpha"), *dropout_problems(self)]
        return [*super().problems(), *numbers]


def part_paths(target: Target) -> list[str]:
    """The paths of a target's parts, none if it is one."""
    return [f"{target.path}[{part}]" for part in target.parts if part != WHOLE]


def _expand(model: nn.Module, pattern: str, heads: Sequence[str]) -> list[str]:
    """A pattern as it is; an alias as the patterns it stands for in this model."""
    if pattern not in ALIASES:
        return [pattern]
    if pattern == ALL_LINEAR:
        return all_linear(model, heads)
    attentions = [path for path, module in modules_by_path(model).items() if isinstance(module, nn.MultiheadAttention)]
    if family_of(model) is None and attentions and pattern != "mlp":
        part = {"attention": "", "o": "[out]"}.get(pattern, f"[{pattern}]")
        return [path + part for path in attentions]
    return expand_alias(model, pattern)
