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
from functools import partial

import torch
from torch import Tensor, nn

from loralab.core.adapter import Adapter, AdapterSet, Original, adapters_of, adapters_on
from loralab.core.names import unwrapped
from loralab.core.trial import agree, is_untouched, output_of
from loralab.core.update import WHOLE, Update, tensor_of
from loralab.errors import AdapterStateError, NumericsError


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
    """What a merge did: the adapter, and for each tensor it changed the Frobenius norm of the change."""

    adapter: str
    changes: dict[str, float]

    @property
    def tensors(self) -> int:
        """How many tensors were exchanged."""
        return len(self.changes)


def plan_merge(model: nn.Module, name: str | None = None) -> list[MergedTensor]:
    """The merged value of every tensor that the adapter (the active one by default) touches; changes nothing."""
    adapters = adapters_of(model)
    chosen = name if name is not None else adapters.routing.active
    if chosen is None:
        raise AdapterStateError("a merge was asked for, but no adapter is active; activate one or name it")
    refuse_unmergeable(adapters.adapter(chosen))
    plan = [
        MergedTensor(path, base, tensor_name, merged, _change(merged, tensor_of(base, tensor_name)))
        for path, update in adapters.adapter(chosen).updates.items()
        for base in [unwrapped(adapters.layers[path])]
        for tensor_name, merged in update.merged(base).items()
    ]
    _refuse_recomputed(chosen, plan)
    spoilt = [tensor.full_name for tensor in plan if not torch.isfinite(tensor.merged).all()]
    if spoilt:
        raise NumericsError(f"adapter '{chosen}' would merge NaN or infinite values into: {', '.join(spoilt)}")
    return plan


def refuse_unmergeable(adapter: Adapter) -> None:
    """AdapterStateError for an adapter that is more than a change of the base's weights, saying where and why."""
    for path, update in adapter.updates.items():
        if update.why_not_merged:
            raise AdapterStateError(
                f"adapter '{adapter.name}' was asked to be merged, but at {path} it is {update.why_not_merged}; "
                "keep it live"
            )
        packed = _why_packed(update, unwrapped(adapter.layers[path]))
        if packed:
            raise AdapterStateError(
                f"adapter '{adapter.name}' was asked to be merged, but the weight of {path} is {packed}; load the base "
                "without quantising it, put the adapter on that and merge there, then evaluate what you merged: the "
                "adapter was on other weights, by the error of the quantisation"
            )


def _why_packed(update: Update, base: nn.Module) -> str:
    """Why this module's weight cannot take its update up: what a quantised layer says; empty for any other."""
    if not (len(update.parts) or WHOLE in update.replacements()):
        return ""
    weight = getattr(base, WHOLE, None)
    packed = isinstance(weight, Tensor) and (weight.itemsize == 1 or not weight.is_floating_point())
    stored = f"stored as {str(weight.dtype).removeprefix('torch.')}" if packed and isinstance(weight, Tensor) else ""
    return str(getattr(base, "why_not_merged", stored))


def _refuse_recomputed(adapter: str, plan: Sequence[MergedTensor]) -> None:
    """AdapterStateError where a module does not hold the tensor that a merge would exchange, but makes it anew."""
    lost = [f"{each.full_name} ({type(each.owner).__name__})" for each in plan if not _holds(each.owner, each.name)]
    if lost:
        raise AdapterStateError(
            f"adapter '{adapter}' was asked to be merged into tensors that their modules do not hold but compute "
            f"from others, or that a wrapper passes on: {', '.join(lost)}; make them plain first "
            "(torch.nn.utils.parametrize.remove_parametrizations, remove_weight_norm, prune.remove), or keep it live"
        )


def _refuse_read_past(adapters: AdapterSet, plan: Sequence[MergedTensor]) -> None:
    """AdapterStateError where the model also reads, past the layer, a weight that the merge would change."""
    read = sorted({each.path for each in plan} & adapters.first_pass.read_past)
    if read:
        raise AdapterStateError(
            f"a merge was asked for, but the model uses the weight of {', '.join(read)} past the layer as well, where "
            "the live adapter does not act: merged, it would compute something else; keep the adapter live"
        )


def _holds(module: nn.Module, name: str) -> bool:
    """Whether what is read under this dotted name is a parameter or buffer of the module's own."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    held = owner._parameters.get(leaf, owner._buffers.get(leaf))
    return held is not None and getattr(owner, leaf) is held


def merge(model: nn.Module, name: str | None = None) -> MergeReport:
    """Fold an adapter (the active one by default) into the base weights; nothing changes if anything is wrong.

    Raises AdapterStateError if one is merged already or none is active, NumericsError naming the tensors if a
    merged value is NaN or infinite.
    """
    adapters = adapters_of(model)
    adapters.refuse_merged("another merge")
    plan = plan_merge(model, name)
    _refuse_read_past(adapters, plan)
    chosen = name if name is not None else adapters.routing.active
    trials = list(_trials(adapters.adapter(str(chosen))))
    adapters.originals = [_exchange(tensor) for tensor in plan]
    _refuse_disagreeing(adapters, trials)
    adapters.route(active=chosen, merged=chosen)
    for parameter in adapters.adapter(str(chosen)).parameters():
        parameter.requires_grad_(False)
    return MergeReport(str(chosen), {tensor.full_name: tensor.change for tensor in plan})


@dataclass(frozen=True)
class _Trial:
    """A module that must give the same merged as it gave live."""

    path: str
    base: nn.Module
    inputs: Tensor
    live: object


def _trials(adapter: Adapter) -> Iterator[_Trial]:
    """One for each module that is not simply torch's own with its weight."""
    for path, update in adapter.updates.items():
        base = unwrapped(adapter.layers[path])
        inputs = None if is_untouched(base) or not update.parts else update.trial_input(base)
        if inputs is not None:
            yield _Trial(path, base, inputs, output_of(partial(update, base), inputs, update, base))


def _refuse_disagreeing(adapters: AdapterSet, trials: Sequence[_Trial]) -> None:
    """Take the exchange back where a module does not compute merged what it computed live."""
    wrong = [
        f"{trial.path} ({type(trial.base).__name__})"
        for trial in trials
        if not (isinstance(trial.live, Tensor) and agree(output_of(trial.base, trial.inputs, trial.base), trial.live))
    ]
    if wrong:
        _restore(adapters)
        adapters.originals = []
        raise AdapterStateError(
            f"a merge was asked for, but with the update in its weight another function than with the live adapter is "
            f"computed by {', '.join(wrong)}: its forward does more than multiply by the weight; keep the adapter live"
        )


def unmerge(model: nn.Module) -> None:
    """Put the original tensors back: the very same objects, so the base is what it was bit for bit."""
    adapters = adapters_of(model)
    if adapters.routing.merged is None:
        raise AdapterStateError("unmerge was asked for, but nothing is merged into this model")
    for parameter in adapters.adapter(adapters.routing.merged).parameters():
        parameter.requires_grad_(True)
    _restore(adapters)
    adapters.originals = []
    adapters.route(active=adapters.routing.active)


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
