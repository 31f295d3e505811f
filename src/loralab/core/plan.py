"""What a method wants done to a model, what a method is, and several of them as one adapter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from loralab.core.updates.factors import SharedMatrices
from loralab.core.updates.update import Update
from loralab.errors import SpecError


@dataclass(frozen=True)
class Plan:
    """An update per module path, which know each other, and what the user should be told."""

    updates: Mapping[str, Update]
    notes: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    """Paths of the modules that are the task's head: trained in full, and counted apart."""
    shared: SharedMatrices | None = None
    """What several of the updates use together."""

    def __post_init__(self) -> None:
        link(self.updates)


def link(updates: Mapping[str, Update]) -> None:
    """Let updates that work together, by path, know each other."""
    for update in updates.values():
        update.link(updates)


class Method(Protocol):
    """A way to adapt a model: a specification that can say what it does to one."""

    def plan(self, model: nn.Module) -> Plan:
        """The updates this method puts on `model`."""


@dataclass(frozen=True)
class JointMethod:
    """Several methods at once, each as it is alone (paper §F.2: LoRA+PrefixEmbed, LoRA+PrefixLayer)."""

    specs: Sequence[Method]

    def plan(self, model: nn.Module) -> Plan:
        """All of their updates; a head that several would train is trained once. SpecError where two collide."""
        plans = [spec.plan(model) for spec in self.specs]
        heads = tuple(dict.fromkeys(head for plan in plans for head in plan.heads))
        updates: dict[str, Update] = {}
        for plan in plans:
            for path, update in plan.updates.items():
                updates[path] = update if path not in updates else _together(path, updates[path], update, heads)
        shared = [plan.shared for plan in plans if plan.shared is not None]
        if len(shared) > 1:
            raise SpecError("two of the methods share matrices between layers; choose one of them")
        return Plan(updates, tuple(note for plan in plans for note in plan.notes), heads, next(iter(shared), None))


def _together(path: str, first: Update, second: Update, heads: Sequence[str]) -> Update:
    """One update for a module that two methods change: possible where one of them only replaces tensors."""
    if path in heads:
        return first
    if not (first.only_replaces or second.only_replaces):
        raise SpecError(f"two of the methods adapt {path}; choose one of them there (targets, exclude)")
    kept, other = (second, first) if first.only_replaces else (first, second)
    for name, tensor in other.replacements().items():
        if name not in kept.replacements():
            kept.share(name, nn.Parameter(tensor))
    return kept
