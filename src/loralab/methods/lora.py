"""LoRA (arXiv 2106.09685): the specification, and the plan that it makes for a model.

Knows the families of models (where q and v are), not files and not training.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from loralab.core.adapter import Plan
from loralab.core.build import Site, build, is_linear, linear_shape
from loralab.core.factors import Recipe
from loralab.core.init import INITIALISERS
from loralab.core.names import modules_by_path
from loralab.core.targets import Target, find_targets, split_patterns
from loralab.core.update import WHOLE
from loralab.errors import SpecError, TargetError
from loralab.methods.biases import add_biases
from loralab.methods.heads import head_updates, heads_of
from loralab.methods.ties import tie_notes
from loralab.models.families import default_targets, expand_alias, family_of, fused_layout, output_head_names

BIASES = ("none", "all", "lora_only")
ALL_LINEAR = "all-linear"
ALIASES = ("attention", "q", "k", "v", "o", "mlp", ALL_LINEAR)


@dataclass(frozen=True)
class LoRA:
    """h = W·x + (α/r)·B·A·x on chosen modules, with W frozen (paper §4.1)."""

    rank: int = 8
    """The rank r of each update."""
    alpha: float = 16.0
    """The numerator of the scale α/r."""
    dropout: float = 0.0
    """Dropout on the input of the low-rank path only."""
    targets: str | Sequence[str] | None = None
    """Module names, endings or regular expressions; `attention`, `all-linear`, `q`, `k`, `v`, `o`, `mlp`; parts of a
    fused projection as `c_attn[q,v]`. None: the q and v of the model's family."""
    exclude: str | Sequence[str] = ()
    """Patterns of modules to leave out, of those that `targets` names."""
    layers: Sequence[int] | None = None
    """Only the blocks with these numbers."""
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    """Another rank for modules whose path ends in (or is matched by) a key."""
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    """Another alpha, likewise."""
    bias: str = "none"
    """Which biases train: `none`, `all` of the model, `lora_only` those of adapted modules."""
    modules_to_save: Sequence[str] | None = None
    """Modules trained and saved in full. None: a classification head on a pretrained body is found and included."""
    rank_stabilized: bool = False
    """Scale by α/√r instead (rsLoRA)."""
    init: str = "kaiming"
    """How A starts: `kaiming`, `gaussian` or `orthogonal`; B is zero."""
    fused: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    """For fused projections of an unknown family: module ending → part → its output rows."""

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise SpecError("this LoRA cannot be: " + "; ".join(problems))

    def recipe(self, path: str) -> Recipe:
        """Rank, alpha and the rest for one module or part (`c_attn[q]`)."""
        rank = _by_pattern(self.rank_pattern, path, self.rank)
        alpha = _by_pattern(self.alpha_pattern, path, self.alpha)
        return Recipe(int(rank), float(alpha), self.dropout, self.rank_stabilized, self.init)

    def plan(self, model: nn.Module) -> Plan:
        """The updates of all targets, of the biases asked for, and of the modules trained in full."""
        heads = heads_of(model, self.modules_to_save)
        targets = self._targets(model, heads)
        updates = {target.path: build(self._site(model, target)) for target in targets}
        self._patterns_must_match(targets)
        add_biases(model, updates, self.bias, heads)
        updates |= head_updates(model, heads)
        return Plan(updates, tuple(tie_notes(model, updates)), tuple(heads))

    def _targets(self, model: nn.Module, heads: Sequence[str]) -> list[Target]:
        patterns = default_targets(model) if self.targets is None else split_patterns(self.targets)
        exclude = split_patterns(self.exclude)
        expanded: list[str] = []
        for pattern in patterns:
            expanded.extend(_expand(model, pattern, heads))
        targets = find_targets(model, dict.fromkeys(expanded), exclude, self.layers)
        inside = [t.path for t in targets if any(t.path == head or t.path.startswith(head + ".") for head in heads)]
        if inside and self.modules_to_save is not None:
            raise SpecError(f"{', '.join(inside)} was asked for both as a target and in modules_to_save; choose one")
        return [target for target in targets if target.path not in inside]

    def _site(self, model: nn.Module, target: Target) -> Site:
        paths = {part: target.path if part == WHOLE else f"{target.path}[{part}]" for part in target.parts}
        recipes = {part: self.recipe(path) for part, path in paths.items()}
        return Site(target.path, target.module, recipes, self._layout(model, target))

    def _layout(self, model: nn.Module, target: Target) -> Mapping[str, torch.Tensor] | None:
        if target.parts == (WHOLE,) or not is_linear(target.module):
            return None
        for ending, parts in self.fused.items():
            if target.path == ending or target.path.endswith("." + ending):
                return {part: torch.as_tensor(rows, dtype=torch.long) for part, rows in parts.items()}
        return fused_layout(model, target.path, linear_shape(target.module)[0])

    def _patterns_must_match(self, targets: Sequence[Target]) -> None:
        paths = [path for target in targets for path in (target.path, *_part_paths(target))]
        lost = [
            f"{name} key {key!r}"
            for name, pattern in (("rank_pattern", self.rank_pattern), ("alpha_pattern", self.alpha_pattern))
            for key in pattern
            if not any(_key_matches(key, path) for path in paths)
        ]
        if lost:
            raise TargetError(
                f"{', '.join(lost)} match no adapted module; keys are endings of: {', '.join(paths[:6])} …"
            )


def _expand(model: nn.Module, pattern: str, heads: Sequence[str]) -> list[str]:
    """A pattern as it is; an alias as the patterns it stands for in this model."""
    if pattern not in ALIASES:
        return [pattern]
    if pattern == ALL_LINEAR:
        return _all_linear(model, heads)
    attentions = [path for path, module in modules_by_path(model).items() if isinstance(module, nn.MultiheadAttention)]
    if family_of(model) is None and attentions and pattern != "mlp":
        part = {"attention": "", "o": "[out]"}.get(pattern, f"[{pattern}]")
        return [path + part for path in attentions]
    return expand_alias(model, pattern)


def _all_linear(model: nn.Module, heads: Sequence[str]) -> list[str]:
    """Every dense layer and nn.MultiheadAttention but the output head and what is trained in full."""
    left_out = {*output_head_names(model), *heads}
    found = [
        path
        for path, module in modules_by_path(model).items()
        if (is_linear(module) or isinstance(module, nn.MultiheadAttention))
        and not any(path == name or path.startswith(name + ".") for name in left_out)
    ]
    if not found:
        raise TargetError("all-linear was asked for, but this model has no dense layers")
    return found


def _by_pattern(pattern: Mapping[str, float], path: str, default: float) -> float:
    return next((value for key, value in pattern.items() if _key_matches(key, path)), default)


def _key_matches(key: str, path: str) -> bool:
    """PEFT's rule: the key, a name or regular expression, matches the end of the path at a dot.

    A part (`experts[down_proj]`) is also matched by its module's name and by `experts.down_proj`.
    """
    whole, _, part = path.partition("[")
    if path == key or path.endswith("." + key):
        return True
    return any(re.match(rf"(.*\.)?({key})$", other) for other in (path, whole, f"{whole}.{part.rstrip(']')}"))


def _part_paths(target: Target) -> list[str]:
    return [f"{target.path}[{part}]" for part in target.parts if part != WHOLE]


def _problems(spec: LoRA) -> list[str]:
    ranks = {"rank": spec.rank, **{f"rank_pattern[{key!r}]": rank for key, rank in spec.rank_pattern.items()}}
    found = [
        f"{name} is {rank!r} and must be a whole number from 1" for name, rank in ranks.items() if not _is_count(rank)
    ]
    alphas = {"alpha": spec.alpha, **{f"alpha_pattern[{key!r}]": a for key, a in spec.alpha_pattern.items()}}
    found += [
        f"{name} is {alpha!r} and must be a finite number" for name, alpha in alphas.items() if not _is_finite(alpha)
    ]
    if not _is_finite(spec.dropout) or not 0 <= spec.dropout < 1:
        found.append(f"dropout is {spec.dropout!r} and must lie in [0, 1)")
    if spec.bias not in BIASES:
        found.append(f"bias is {spec.bias!r} and must be one of {', '.join(BIASES)}")
    if spec.init not in INITIALISERS:
        found.append(f"init is {spec.init!r} and must be one of {', '.join(INITIALISERS)}")
    if spec.targets is not None and not split_patterns(spec.targets):
        found.append("targets is empty; name modules, or leave it out for the family's q and v")
    return found


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
