"""LoRA (arXiv 2106.09685) and what differs from it by a field: rsLoRA, LoRA-FA, DoRA, PiSSA.

Knows the families of models (where q and v are), not files and not training.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from loralab.core.init import INITIALISERS
from loralab.core.plan import Method, Plan
from loralab.core.targets import Target
from loralab.core.updates.build import Maker, Site
from loralab.core.updates.factors import Recipe, SharedMatrices, Spot
from loralab.errors import SpecError, TargetError
from loralab.files.values import is_finite
from loralab.methods.frozen_a import FrozenA
from loralab.methods.low_rank_method import ScaledMethod, part_paths
from loralab.methods.pissa import is_pissa, pissa, principal_of
from loralab.methods.trainable_tokens import Tokens, token_problems, with_tokens
from loralab.models.nf4 import Principal

EVA = "eva"
"""The start that needs data (`eva.py`)."""


@dataclass(frozen=True)
class LoRA(ScaledMethod):
    """h = W·x + (α/r)·B·A·x on chosen modules, with W frozen (paper §4.1)."""

    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    """Another rank for modules whose path ends in (or is matched by) a key."""
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    """Another alpha, likewise."""
    rank_stabilized: bool = False
    """Scale by α/√r instead (rsLoRA, arXiv 2312.03732)."""
    init: str = "kaiming"
    """How A starts: `kaiming`, `gaussian` or `orthogonal` (A with orthonormal rows); B is zero. PEFT's `orthogonal` is
    another start: there A and B both differ from zero, in halves of an even rank that are orthogonal to each other.
    `pissa` starts both in the principal part of W (arXiv 2404.02948); `pissa-K` finds it by K subspace iterations
    instead of a whole SVD. `eva` takes A from data (arXiv 2410.07170), which `attach_eva` is given."""
    magnitude: bool = False
    """Train the length of every output's weights as well (DoRA, arXiv 2402.09353)."""
    through_norm: bool = False
    """Of DoRA: let the gradient through the norm too, which the paper's §4.3 leaves out for its memory."""
    freeze_a: bool = False
    """Train B alone; A stays as it was drawn (LoRA-FA, arXiv 2308.03303)."""
    nearest_step: bool = False
    """Of LoRA-FA: turn B's gradient, so that a step against it is the nearest to one of full fine-tuning."""
    trainable_token_indices: Tokens | None = None
    """Tokens whose rows of the embedding train as well, by index: those that were added to the vocabulary. A list is of
    the model's input embedding; a mapping names modules, as {"embed_tokens": [32000], "lm_head": [32000]}. A head that
    is tied to the embedding computes with the same rows; one that is not stays as it is unless it is named."""

    invocation_tokens: Sequence[int] | None = None
    """Act only from where these tokens of a prompt begin on, at their last occurrence (aLoRA, arXiv 2504.12397); before
    that the output is the base's, whose cached keys and values serve."""

    def plan(self, model: nn.Module) -> Plan:
        planned = super().plan(model)
        tokens = self.trainable_token_indices
        return planned if tokens is None else with_tokens(planned, model, tokens)

    def problems(self) -> list[str]:
        ranks = {f"rank_pattern[{key!r}]": rank for key, rank in self.rank_pattern.items()}
        alphas = {f"alpha_pattern[{key!r}]": alpha for key, alpha in self.alpha_pattern.items()}
        found = [
            *super().problems(),
            *(f"{name} is {rank!r} and must be a whole number from 1" for name, rank in ranks.items() if rank < 1),
            *(f"{name} is {a!r} and must be a finite number" for name, a in alphas.items() if not is_finite(a)),
        ]
        if self.init not in (*INITIALISERS, EVA) and not is_pissa(self.init):
            known = ", ".join((*INITIALISERS, EVA))
            found.append(f"init is {self.init!r} and must be one of {known}, pissa, pissa-K (pissa-4)")
        found += token_problems("trainable_token_indices", self.trainable_token_indices)
        return found + self._wrong_invocation() + self._at_odds(scales_nothing=0 in (self.alpha, *alphas.values()))

    def _wrong_invocation(self) -> list[str]:
        tokens = self.invocation_tokens
        if tokens is None:
            return []
        found = (
            []
            if tokens and all(token >= 0 for token in tokens)
            else [f"invocation_tokens is {list(tokens)} and must be at least one token, each a whole number from 0"]
        )
        everywhere = {"bias": self.bias != "none", "modules_to_save": bool(self.modules_to_save)}
        everywhere["trainable_token_indices"] = self.trainable_token_indices is not None
        return found + [
            f"{name} with invocation_tokens: what it trains acts before the invocation too, where the output is the "
            "base's"
            for name, is_given in everywhere.items()
            if is_given
        ]

    def _at_odds(self, scales_nothing: bool) -> list[str]:
        """Options that do not combine."""
        combinations = {
            "freeze_a with init pissa: PiSSA trains the principal part, both A and B of it": (
                self.freeze_a and is_pissa(self.init)
            ),
            "nearest_step needs freeze_a (LoRA-FA)": self.nearest_step and not self.freeze_a,
            "alpha is 0 with nearest_step, which divides by the scale": self.nearest_step and scales_nothing,
            "magnitude with invocation_tokens: DoRA of some positions alone is not defined": (
                self.magnitude and self.invocation_tokens is not None
            ),
            "through_norm needs magnitude (DoRA)": self.through_norm and not self.magnitude,
            "alpha is 0 with init pissa, whose factors are the principal part divided by the scale": (
                is_pissa(self.init) and scales_nothing
            ),
        }
        return [reason for reason, is_so in combinations.items() if is_so]

    def recipe(self, path: str) -> Recipe:
        """Rank, alpha and the rest for one module or part (`c_attn[q]`)."""
        rank = _by_pattern(self.rank_pattern, path, self.rank)
        alpha = _by_pattern(self.alpha_pattern, path, self.alpha)
        return Recipe(int(rank), float(alpha), self.dropout, self.rank_stabilized, self.init)

    def takes_any_rank(self, path: str) -> bool:
        """PEFT does. A start that is made from W has no such rank, and neither has what inverts A·Aᵀ."""
        is_drawn = self.init in INITIALISERS and not self.nearest_step
        return is_drawn and not any(_key_matches(key, path) for key in self.rank_pattern)

    def makers(self, model: nn.Module, found: Sequence[Spot]) -> tuple[Maker | None, SharedMatrices | None]:
        if self.init == EVA:
            raise SpecError("init eva starts A from data, and none was given; use attach_eva, or `train --init eva`")
        if is_pissa(self.init):
            return pissa, None
        if self.freeze_a:
            return (FrozenA.start_nearest if self.nearest_step else FrozenA.start), None
        return None, None

    def site(self, target: Target, layout: Mapping[str, torch.Tensor] | None) -> Site:
        plain = super().site(target, layout)
        return replace(
            plain,
            magnitude=self.magnitude,
            through_norm=self.through_norm,
            invocation=tuple(self.invocation_tokens or ()),
        )

    def find(self, model: nn.Module, heads: Sequence[str]) -> list[Target]:
        if self.invocation_tokens and getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            raise SpecError(
                f"{type(model).__name__} cannot have invocation_tokens: its encoder and decoder read different "
                "tokens, and an invocation belongs to a model that reads one text; leave it out"
            )
        targets = super().find(model, heads)
        self._patterns_must_match(targets)
        return targets

    def _patterns_must_match(self, targets: Sequence[Target]) -> None:
        paths = [path for target in targets for path in (target.path, *part_paths(target))]
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


def principal_under(model: nn.Module, method: Method) -> Principal | None:
    """The part of each weight that PiSSA keeps in float when the base is quantised; None for every other method."""
    return principal_of(model, method) if isinstance(method, LoRA) and is_pissa(method.init) else None
