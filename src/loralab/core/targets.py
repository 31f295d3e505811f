"""From patterns to modules: which of a model's modules and raw parameters a list of targets names.

A pattern is a path or its ending at a dot (`q_proj`, `attention.self.query`), or a regular expression for the
whole path. `c_attn[q,v]` names parts of a fused projection. The name of a module's weight (`q_proj.weight`) is that of
the module, where it is adapted as a whole. Every pattern must match something.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from loralab.core.names import Slot, slots
from loralab.core.updates.build import CONVOLUTIONS, can_adapt
from loralab.core.updates.update import WHOLE
from loralab.errors import SpecError, TargetError
from loralab.nn.module_names import layer_index

_PARTS = re.compile(r"(?P<path>.+)\[(?P<parts>[a-z_]+(?:,[a-z_]+)*)\]")
_REGEX = re.compile(r"[\\^$*+?{}()|\[\]]")


@dataclass(frozen=True)
class Target:
    """A module to adapt and which of its parts: (`weight`,), parts of a fused one, or names of raw parameters."""

    path: str
    module: nn.Module
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Pattern:
    """One target as it was written."""

    text: str
    path: str
    parts: tuple[str, ...]

    @staticmethod
    def of(text: str) -> "Pattern":
        """Take `c_attn[q,v]` apart; anything else names whole modules."""
        match = _PARTS.fullmatch(text)
        return Pattern(text, match["path"], tuple(match["parts"].split(","))) if match else Pattern(text, text, ())

    def matches(self, path: str) -> bool:
        """Whether the path is the pattern, ends in it at a dot, or is matched by it as a regular expression."""
        return path == self.path or path.endswith("." + self.path) or self._matches_as_regex(path)

    def matches_any(self, names: Sequence[str]) -> bool:
        """Whether it matches one of these names. Of a weight that many modules have it takes more than `weight`."""
        spelled = names if self.path.endswith(f".{WHOLE}") else names[:1]
        return any(self.matches(name) for name in spelled)

    def _matches_as_regex(self, path: str) -> bool:
        if not _REGEX.search(self.path):
            return False
        try:
            return re.fullmatch(self.path, path) is not None
        except re.error as problem:
            raise SpecError(f"the target {self.text!r} is not a valid regular expression: {problem}") from problem


def split_patterns(targets: str | Sequence[str]) -> list[str]:
    """`"q_proj,c_attn[q,v]"` → its patterns, split at commas outside brackets; a sequence is taken as it is."""
    if not isinstance(targets, str):
        return list(targets)
    return [piece.strip() for piece in re.split(r",(?![^\[({]*[\])}])", targets) if piece.strip()]


def find_targets(
    model: nn.Module,
    patterns: Iterable[str],
    exclude: Iterable[str] = (),
    layers: Sequence[int] | None = None,
) -> list[Target]:
    """Every target that the patterns name, in the model's order; raises TargetError naming what matched nothing."""
    wanted = [Pattern.of(text) for text in patterns]
    unwanted = [Pattern.of(text) for text in exclude]
    candidates = _candidates(model)
    _all_must_match(model, [*wanted, *unwanted], candidates)
    _layers_must_exist(layers, candidates)
    kept: dict[str, Target] = {}
    for candidate in candidates:
        hits = [pattern for pattern in wanted if pattern.matches_any(candidate.names)]
        if not hits or any(pattern.matches_any(candidate.names) for pattern in unwanted):
            continue
        if layers is None or layer_index(candidate.name) in layers:
            target = candidate.target(hits)
            kept[target.path] = _joined(kept.get(target.path), target)
    if not kept:
        raise TargetError("after `exclude` and `layers` no target is left; relax one of them")
    return list(kept.values())


@dataclass(frozen=True)
class Candidate:
    """Something that a pattern can name: a module, a raw parameter of a module, or the output of an attention."""

    name: str
    path: str
    module: nn.Module
    part: str

    @property
    def names(self) -> tuple[str, ...]:
        """What it can be called: its name, and of what is adapted as a whole the name of its weight."""
        is_raw = self.name == f"{self.path}.{self.part}"
        return (self.name,) if is_raw else (self.name, f"{self.name}.{WHOLE}")

    def target(self, hits: Sequence[Pattern]) -> Target:
        parts = tuple(dict.fromkeys(part for pattern in hits for part in pattern.parts))
        if not parts or any(not pattern.parts for pattern in hits):
            return Target(self.path, self.module, (self.part,))
        return Target(self.path, self.module, parts)


def _candidates(model: nn.Module) -> list[Candidate]:
    seen: set[int] = set()
    candidates = []
    for slot in slots(model):
        if id(slot.module) not in seen:
            seen.add(id(slot.module))
            candidates.extend(_candidates_of(slot))
    return candidates


def _candidates_of(slot: Slot) -> list[Candidate]:
    if isinstance(slot.parent, nn.MultiheadAttention) and slot.attribute == "out_proj":
        return [Candidate(slot.path, slot.path.rpartition(".")[0], slot.parent, "out")]
    if can_adapt(slot.module):
        return [Candidate(slot.path, slot.path, slot.module, WHOLE)]
    if isinstance(slot.module, CONVOLUTIONS):
        return []
    raw = [
        name
        for name, parameter in slot.module._parameters.items()
        if parameter is not None and parameter.dim() in (2, 3)
    ]
    return [Candidate(f"{slot.path}.{name}", slot.path, slot.module, name) for name in raw]


def _joined(first: Target | None, second: Target) -> Target:
    if first is None:
        return second
    parts = tuple(dict.fromkeys([*first.parts, *second.parts]))
    whole_attention = isinstance(first.module, nn.MultiheadAttention) and WHOLE in parts
    return Target(first.path, first.module, (WHOLE,) if whole_attention else parts)


def _all_must_match(model: nn.Module, patterns: Sequence[Pattern], candidates: Sequence[Candidate]) -> None:
    names = [candidate.name for candidate in candidates]
    lost = [
        pattern for pattern in patterns if not any(pattern.matches_any(candidate.names) for candidate in candidates)
    ]
    if lost:
        lines = [
            f"{pattern.text!r} {_unfit(model, pattern, candidates)}{_near(pattern.path, names)}" for pattern in lost
        ]
        raise TargetError("; ".join(lines) + ". Names are module paths or their endings, or a regular expression")


def _unfit(model: nn.Module, pattern: Pattern, candidates: Sequence[Candidate]) -> str:
    """What a pattern without a target does name: a module of another kind, or nothing."""
    named = [slot for slot in slots(model) if pattern.matches(slot.path)]
    if not named:
        return "matches no module"
    kinds = ", ".join(sorted({type(slot.module).__name__ for slot in named}))
    odd = any(isinstance(slot.module, (nn.Linear, nn.Embedding, *CONVOLUTIONS)) for slot in named)
    reason = ": its forward is not the product, lookup or convolution of its class" if odd else ""
    raw = [
        candidate.name for candidate in candidates for slot in named if candidate.path == slot.path != candidate.name
    ]
    instead = f"; {raw[0]} can be one, as a raw parameter that the module itself computes with" if raw else ""
    return f"names {kinds}, which cannot be a target{reason}{instead}"


def _near(asked: str, names: Sequence[str]) -> str:
    endings = sorted({name.rpartition(".")[2] for name in names if not name.rpartition(".")[2].isdigit()} | set(names))
    close = difflib.get_close_matches(asked, endings, n=3, cutoff=0.5)
    if close:
        return f" (near: {', '.join(close)})"
    kinds = sorted({name.rpartition(".")[2] for name in names if not name.rpartition(".")[2].isdigit()})
    return (
        f" (there are: {', '.join(kinds[:12])}{', …' if len(kinds) > 12 else ''})"
        if kinds
        else " (nothing can be adapted)"
    )


def _layers_must_exist(layers: Sequence[int] | None, candidates: Sequence[Candidate]) -> None:
    present = {layer_index(candidate.name) for candidate in candidates} - {None}
    lost = [layer for layer in layers or () if layer not in present]
    if lost:
        raise TargetError(f"the model has no layers {lost}; it has {sorted(present)}")  # type: ignore[type-var]
