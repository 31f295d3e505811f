"""Fold the active adapter into the base weights, and take it out again bit for bit.

A plan is made first: every merged tensor is computed (summed in float32 or wider, rounded once) and checked before
anything on the model changes. Then tensors are *exchanged*, not overwritten: a merged module gets new tensors and
the original objects are kept, so that unmerging is exact and a tensor shared with another module (tied embeddings)
stays as it was there.

A module that is more than torch's own class with a weight (a subclass, a foreign one, one with hooks) is run live
before the exchange and merged after it: unless the two agree, the originals are put back and the merge is refused.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loralab.core.adapter import AdapterSet, Original, adapters_of, adapters_on
from loralab.core.layer import Speaker, in_words, names_of
from loralab.core.mergeable import (
    refuse_disagreeing,
    refuse_read_past,
    refuse_recomputed,
    refuse_unmergeable,
    trials_of,
)
from loralab.core.names import unwrapped
from loralab.core.rows.speaker import speaker
from loralab.core.updates.update import Update
from loralab.errors import AdapterStateError, NumericsError
from loralab.nn.tensors import tensor_of


@dataclass(frozen=True)
class MergedTensor:
    """One tensor of the plan: where it is, its merged value, and how far it moves."""

    path: str
    owner: nn.Module
    name: str
    merged: Tensor
    change: float

    @property
    def full_name(self) -> str:
        """The tensor's name in the model's own state dict."""
        return f"{self.path}.{self.name}"


@dataclass(frozen=True)
class MergeReport:
    """What a merge did: the adapter (`a + b`: two), and for each tensor it changed the Frobenius norm of the change."""

    adapter: str
    changes: dict[str, float]

    @property
    def tensors(self) -> int:
        """How many tensors were exchanged."""
        return len(self.changes)


def plan_merge(model: nn.Module, name: str | Sequence[str] | None = None) -> list[MergedTensor]:
    """The merged value of every tensor that the adapter (the active one by default) touches; changes nothing."""
    adapters = adapters_of(model)
    chosen = _chosen(adapters, name)
    for each in names_of(chosen):
        refuse_unmergeable(adapters.adapter(each))
    plan = [
        MergedTensor(path, base, tensor_name, merged, _change(merged, tensor_of(base, tensor_name)))
        for path, update in _updates(adapters, chosen).items()
        for base in [unwrapped(adapters.layers[path])]
        for tensor_name, merged in update.merged(base).items()
    ]
    refuse_recomputed(in_words(chosen), [(each.full_name, each.owner, each.name) for each in plan])
    spoilt = [tensor.full_name for tensor in plan if not torch.isfinite(tensor.merged).all()]
    if spoilt:
        raise NumericsError(f"{in_words(chosen)} would merge NaN or infinite values into: {', '.join(spoilt)}")
    return plan


def _chosen(adapters: AdapterSet, name: str | Sequence[str] | None) -> Speaker:
    chosen = speaker(adapters, name) if name is not None else adapters.routing.active
    if chosen is None:
        raise AdapterStateError("merge() has no adapter: no adapter is active. Activate one or name it")
    return chosen


def _updates(adapters: AdapterSet, chosen: Speaker) -> dict[str, Update]:
    """What the chosen adapters together bring to each module, each module once."""
    paths = dict.fromkeys(path for name in names_of(chosen) for path in adapters.adapter(name).updates)
    updates = {path: adapters.layers[path].update_of(chosen) for path in paths}
    return {path: update for path, update in updates.items() if update is not None}


def merge(model: nn.Module, name: str | Sequence[str] | None = None) -> MergeReport:
    """Fold an adapter (what is active by default) into the base weights; nothing changes if anything is wrong.

    Several adapters, by a list of names or because several are active, are folded in as their sum.

    Raises AdapterStateError if one is merged already or none is active, NumericsError naming the tensors if a
    merged value is NaN or infinite.
    """
    adapters = adapters_of(model)
    adapters.refuse_merged("another merge")
    plan = plan_merge(model, name)
    chosen = _chosen(adapters, name)
    refuse_read_past(adapters, [each.path for each in plan])
    trials = list(trials_of(adapters, _updates(adapters, chosen)))
    adapters.originals = [_exchange(tensor) for tensor in plan]
    wrong = [trial for trial in trials if not trial.agrees()]
    if wrong:
        _restore(adapters)
        adapters.originals = []
        refuse_disagreeing(wrong)
    adapters.route(active=chosen, merged=chosen)
    _let_train(adapters, chosen, False)
    return MergeReport(" + ".join(names_of(chosen)), {tensor.full_name: tensor.change for tensor in plan})


def unmerge(model: nn.Module) -> None:
    """Put the original tensors back: the very same objects, so the base is what it was bit for bit."""
    adapters = adapters_of(model)
    if adapters.routing.merged is None:
        raise AdapterStateError("unmerge() has nothing to undo: nothing is merged into this model")
    _let_train(adapters, adapters.routing.merged, True)
    _restore(adapters)
    adapters.originals = []
    adapters.route(active=adapters.routing.active)


def _let_train(adapters: AdapterSet, chosen: Speaker, trains: bool) -> None:
    for name in names_of(chosen):
        for parameter in adapters.adapter(name).parameters():
            parameter.requires_grad_(trains)


@contextmanager
def originals_in_place(model: nn.Module) -> Iterator[None]:
    """Within this block a merged model holds its original tensors; does nothing to a model that is not merged."""
    adapters = adapters_on(model)
    _restore(adapters)
    try:
        yield
    finally:
        for original in adapters.originals:
            _set(original.owner, original.name, original.merged)


def _exchange(planned: MergedTensor) -> Original:
    before = tensor_of(planned.owner, planned.name)
    after: Tensor = planned.merged
    if isinstance(before, nn.Parameter):
        after = nn.Parameter(planned.merged, requires_grad=False)
    _set(planned.owner, planned.name, after)
    return Original(planned.owner, planned.name, before, after)


def _restore(adapters: AdapterSet) -> None:
    for original in adapters.originals:
        _set(original.owner, original.name, original.tensor)


def _set(owner: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = owner.get_submodule(path)
    held = module._parameters if leaf in module._parameters else module._buffers
    held[leaf] = tensor  # type: ignore[assignment]


def _change(merged: Tensor, original: Tensor) -> float:
    if not merged.is_floating_point():
        return 0.0
    return float(torch.linalg.vector_norm(merged.double() - original.double()))
