"""One adapter is one object: its name, its specification, and its update at each path of the model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from loralab.core.first_pass import FirstPass
from loralab.core.layer import AdaptedLayer, PerSequence, Routing, Speaker, in_words, names_of
from loralab.core.names import base_modules, inside, unwrapped
from loralab.core.rows.proof import RowProofs
from loralab.core.updates.factors import SharedMatrices
from loralab.core.updates.update import Update
from loralab.errors import AdapterFileError, AdapterStateError, UnknownAdapterError
from loralab.nn.statistics import HeldStatistics, has_statistics

SHARED = "shared"
"""What the names of shared matrices begin with."""


@dataclass(frozen=True, eq=False, repr=False)
class Adapter:
    """A named adapter on a model. Its parameters live in the model's adapted layers; this is the one handle to them."""

    name: str
    spec: object
    updates: Mapping[str, Update]
    notes: list[str]
    """What the user should be told; more is added as it becomes known."""
    layers: Mapping[str, AdaptedLayer]
    heads: tuple[str, ...] = ()
    shared: SharedMatrices | None = None
    stacks: frozenset[str] = frozenset()
    """Names of the model's parameters that stack a matrix for each of several experts, adapted or not."""
    elsewhere: Mapping[str, list[str]] = field(default_factory=dict)
    """Path → the other paths of an adapted module that hangs in several places of the model."""

    def __repr__(self) -> str:
        """One line: what it is, how large, and whether it speaks."""
        ranks = sorted(self._ranks())
        rank = [f"rank {'–'.join(map(str, dict.fromkeys((ranks[0], ranks[-1]))))}"] if ranks else []
        modules = f"{len(self.matched)} module{'' if len(self.matched) == 1 else 's'}"
        trained = f"{sum(parameter.numel() for parameter in self.parameters()):,} parameters"
        return f"Adapter({self.name!r}: {', '.join([_kind(self.spec), *rank, modules, trained, self._state()])})"

    def _ranks(self) -> set[int]:
        return {update.delta_of(part).recipe.rank for update in self.updates.values() for part in update.parts}

    def _state(self) -> str:
        """What speaks now is data of the routing that all layers share."""
        if not any(layer.update_of(self.name) is self.updates[path] for path, layer in self.layers.items()):
            return "detached"
        routing = next(iter(self.layers.values())).routing
        if routing.merged is not None:
            return "merged" if self.name in names_of(routing.merged) else "inactive"
        speakers = (routing.active,) if routing.rows is None else routing.rows.names
        return "live" if any(self.name in names_of(speaker) for speaker in speakers) else "inactive"

    @property
    def matched(self) -> list[str]:
        """Paths of the modules with low-rank updates or inserted layers; where there are none, of all but the heads."""
        inserted = [path for path, update in self.updates.items() if update.is_insertion]
        return inserted or [path for path in self.updates if not self.in_head(path)]

    def in_head(self, name: str) -> bool:
        """Whether a module or tensor of this name belongs to the task's head."""
        return inside(name, self.heads)

    @property
    def invocation(self) -> tuple[int, ...]:
        """The tokens from which on it acts (aLoRA); empty where it acts at every position."""
        return next((update.invocation for update in self.updates.values() if update.invocation), ())

    @property
    def silent_at_first_step(self) -> set[str]:
        """Names of the parameters whose first gradient is rightly zero (with B = 0: every A)."""
        shared = set() if self.shared is None else {f"{SHARED}.{name}" for name in self.shared.silent}
        own = {f"{path}.{local}" for path, update in self.updates.items() for local in update.silent_at_first_step()}
        return shared | own

    @property
    def sleepers(self) -> set[str]:
        """Names of the parameters that a forward pass may leave out by chance (AdaMix's experts)."""
        return {f"{path}.{local}" for path, update in self.updates.items() for local in update.sleepers()}

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(`<module path>.<lora_A | q.lora_B | bias | …>`, tensor) of all that is stored, tied ones once.

        Matrices that many updates share come first, as `shared.<name>`.
        """
        seen: set[int] = set()
        if self.shared is not None:
            yield from ((f"{SHARED}.{name}", tensor) for name, tensor in self.shared.stored())
        for path, update in self.updates.items():
            for local, tensor in update.named_tensors():
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield f"{path}.{local}", tensor

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Exactly what trains, by the same names."""
        for name, tensor in self.named_tensors():
            if isinstance(tensor, nn.Parameter):
                yield name, tensor

    def parameters(self) -> Iterator[nn.Parameter]:
        """Exactly what trains."""
        for _, parameter in self.named_parameters():
            yield parameter

    def state_dict(self) -> dict[str, Tensor]:
        """Detached tensors by name; they share memory with the adapter."""
        return {name: tensor.detach() for name, tensor in self.named_tensors()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy every tensor in, or raise AdapterFileError naming all missing, extra, misshapen and non-finite ones."""
        own = dict(self.named_tensors())
        problems = [f"{name} is missing" for name in own if name not in state]
        problems += [f"{name} belongs to no target" for name in state if name not in own]
        for name in own.keys() & state.keys():
            if own[name].shape != state[name].shape:
                problems.append(f"{name} has shape {list(state[name].shape)}, not {list(own[name].shape)}")
            elif not torch.isfinite(state[name]).all():
                problems.append(f"{name} holds NaN or infinite values")
        if problems:
            raise AdapterFileError(f"adapter '{self.name}' cannot take these tensors: " + "; ".join(sorted(problems)))
        with torch.no_grad():
            for name, tensor in own.items():
                if self.shared is not None and name.startswith(f"{SHARED}."):
                    self.shared.take(name.removeprefix(f"{SHARED}."), state[name])
                else:
                    tensor.copy_(state[name])


def _kind(spec: object) -> str:
    """The names of a specification's classes: `LoRA`, `LoRA + PrefixEmbedding`."""
    return " + ".join(type(each).__name__ for each in getattr(spec, "specs", (spec,)))


@dataclass
class AdapterSet:
    """All adapters of one model: kept on the model itself, so that it is copied and freed with it."""

    routing: Routing = field(default_factory=Routing)
    adapters: dict[str, Adapter] = field(default_factory=dict)
    layers: dict[str, AdaptedLayer] = field(default_factory=dict)
    trained_before: list[nn.Parameter] = field(default_factory=list)
    originals: list["Original"] = field(default_factory=list)
    fused_parents: list["FusedParent"] = field(default_factory=list)
    held: list[HeldStatistics] = field(default_factory=list)
    listener: "Ear | None" = None

    def __post_init__(self) -> None:
        self.first_pass = FirstPass(self.routing, self.layers)
        self.row_proofs = RowProofs(self.routing, self.layers)

    def route(
        self, active: Speaker | None = None, rows: PerSequence | None = None, merged: Speaker | None = None
    ) -> None:
        """Say which adapter speaks: the only place that changes the routing."""
        self.routing.active, self.routing.rows, self.routing.merged = active, rows, merged
        for parent in self.fused_parents:
            parent.follow(self.routing.is_live)

    def thaw(self, trainable: bool) -> None:
        """Let the base's parameters require gradients as they did before the first adapter came, or freeze them."""
        for parameter in self.trained_before:
            parameter.requires_grad_(trainable)

    def watch(self, module: nn.TransformerEncoderLayer) -> None:
        """See to it that this layer does not pass its adapted submodules by."""
        if all(parent.module is not module for parent in self.fused_parents):
            self.fused_parents.append(FusedParent(module))

    def hold_statistics(self, model: nn.Module) -> None:
        """See to it that training leaves the running statistics of the base as they are."""
        there = {id(each.module) for each in self.held}
        for module in base_modules(model):
            if has_statistics(module) and id(module) not in there:
                self.held.append(HeldStatistics(module, self.owns_statistics))

    def owns_statistics(self, tensor: Tensor) -> bool:
        """Whether a buffer is an adapter's own, and not the base's."""
        updates = (update for adapter in self.adapters.values() for update in adapter.updates.values())
        return any(tensor is own for update in updates for own in update.owned_buffers())

    def release_statistics(self) -> None:
        """Let the base's running statistics run again."""
        for each in self.held:
            each.release()
        self.held.clear()

    def adapter(self, name: str) -> Adapter:
        """The adapter of this name, or UnknownAdapterError listing those there are."""
        if name not in self.adapters:
            there = ", ".join(repr(known) for known in self.adapters) or "none"
            raise UnknownAdapterError(f"there is no adapter {name!r} on this model; there is: {there}")
        return self.adapters[name]

    def invocation_of(self, speaker: Speaker | None) -> tuple[int, ...]:
        """The invocation of the adapter that speaks; empty for the base, and for several, of which none has one."""
        return self.adapter(speaker).invocation if isinstance(speaker, str) else ()

    def share(self, newcomer: SharedMatrices | None) -> None:
        """Let an adapter that is being attached use those frozen matrices of the others that equal its own."""
        for known in self.adapters.values():
            if newcomer is not None and known.shared is not None:
                newcomer.share(known.shared)

    def refuse_merged(self, what: str) -> None:
        """An error while an adapter is merged into the base."""
        if self.routing.merged is not None:
            raise AdapterStateError(
                f"{what} is impossible while {in_words(self.routing.merged)} is merged into the base weights; call "
                "unmerge(model) first"
            )

    def keep_merged(self) -> None:
        """Make a merge final: the originals are forgotten."""
        if self.routing.merged is None:
            raise AdapterStateError("keep_merged has nothing to keep: nothing is merged; call merge(model) first")
        self.originals = []
        self.route()


class Ear(Protocol):
    """What hears the tokens that the model is called with (`listener.py`)."""

    def remove(self) -> None:
        """Hear no more."""


@dataclass
class FusedParent:
    """An nn.TransformerEncoderLayer around adapted modules.

    In inference it reads its submodules' weights and runs one fused kernel, which would pass every update by; with
    any hook on it, it calls its submodules. So it carries a hook that does nothing for as long as an adapter speaks.
    """

    module: nn.TransformerEncoderLayer
    hook: RemovableHandle | None = None

    def follow(self, live: bool) -> None:
        """Carry the hook if and only if an adapter is live."""
        if live and self.hook is None:
            self.hook = self.module.register_forward_pre_hook(_nothing)
        elif not live and self.hook is not None:
            self.hook.remove()
            self.hook = None


def _nothing(module: nn.Module, args: object) -> None:
    return None


@dataclass
class Original:
    """A tensor that merging took out of a module, for putting back the very same object."""

    owner: nn.Module
    name: str
    tensor: Tensor
    merged: Tensor


_ATTRIBUTE = "_loralab_adapters"


def adapters_of(model: nn.Module) -> AdapterSet:
    """The adapters on this model; raises AdapterStateError where there are none."""
    adapters = unwrapped(model).__dict__.get(_ATTRIBUTE)
    if not isinstance(adapters, AdapterSet):
        raise AdapterStateError(f"this {type(unwrapped(model)).__name__} has no adapters; attach or load one first")
    return adapters


def adapters_on(model: nn.Module) -> AdapterSet:
    """The adapters on this model, an empty set where there are none yet (nothing is kept on the model by asking)."""
    adapters = unwrapped(model).__dict__.get(_ATTRIBUTE)
    return adapters if isinstance(adapters, AdapterSet) else AdapterSet()


def keep_adapters(model: nn.Module, adapters: AdapterSet | None) -> None:
    """Put the set on the model, or take it off."""
    if adapters is None:
        unwrapped(model).__dict__.pop(_ATTRIBUTE, None)
    else:
        unwrapped(model).__dict__[_ATTRIBUTE] = adapters


def refuse_foreign_adapter(model: nn.Module) -> None:
    """AdapterStateError for a model on which transformers has put an adapter of PEFT's, as it does unasked where one
    lies in the model's folder.
    """
    if getattr(unwrapped(model), "_hf_peft_config_loaded", False):
        raise AdapterStateError(
            f"this {type(unwrapped(model)).__name__} has an adapter of PEFT's in it already, which transformers puts "
            "on where an adapter_config.json lies in the model's folder; load the model from a folder without one, and "
            "the adapter with loralab.load"
        )
