"""What a merge needs of the modules it changes: tensors that they hold, and the same function before and after.

A module that is more than torch's own class with a weight (a subclass, a foreign one, one with hooks) is run live
before the exchange and merged after it. It changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from loralab.core.adapter import Adapter, AdapterSet
from loralab.core.names import unwrapped
from loralab.core.updates.update import WHOLE, Update
from loralab.errors import AdapterStateError
from loralab.nn.trial import agree, is_untouched, output_of


def refuse_unmergeable(adapter: Adapter) -> None:
    """AdapterStateError for an adapter that is more than a change of the base's weights, saying where and why."""
    for path, update in adapter.updates.items():
        if update.why_not_merged:
            raise AdapterStateError(
                f"adapter '{adapter.name}' cannot be merged: at {path} it is {update.why_not_merged}; keep it live"
            )
        base = unwrapped(adapter.layers[path])
        if getattr(base, "max_norm", None) is not None:
            raise AdapterStateError(
                f"adapter '{adapter.name}' cannot be merged: {path} is an embedding with max_norm, which shortens rows "
                "of its weight as it reads them, and would shorten merged ones too; keep it live"
            )
        packed = _why_packed(update, base)
        if packed:
            raise AdapterStateError(
                f"adapter '{adapter.name}' cannot be merged: the weight of {path} is {packed}; load the base "
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


def refuse_recomputed(who: str, tensors: Sequence[tuple[str, nn.Module, str]]) -> None:
    """AdapterStateError where a module does not hold the tensor that a merge would exchange, but makes it anew.

    Each tensor is its name in the model, a module, and its name in that.
    """
    lost = [f"{name} ({type(owner).__name__})" for name, owner, local in tensors if not _holds(owner, local)]
    if lost:
        raise AdapterStateError(
            f"{who} cannot be merged into tensors that their modules compute from others, or that a wrapper passes "
            f"on: {', '.join(lost)}; make them plain first "
            "(torch.nn.utils.parametrize.remove_parametrizations, remove_weight_norm, prune.remove), or keep it live"
        )


def refuse_read_past(adapters: AdapterSet, paths: Sequence[str]) -> None:
    """AdapterStateError where the model also reads, past the layer, a weight that the merge would change."""
    read = sorted(set(paths) & adapters.first_pass.read_past)
    if read:
        raise AdapterStateError(
            f"the adapter cannot be merged: the model uses the weight of {', '.join(read)} past the layer as well, "
            "where the live adapter does not act, so merged it would compute something else; keep the adapter live"
        )


def _holds(module: nn.Module, name: str) -> bool:
    """Whether what is read under this dotted name is a parameter or buffer of the module's own."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    held = owner._parameters.get(leaf, owner._buffers.get(leaf))
    return held is not None and getattr(owner, leaf) is held


@dataclass(frozen=True)
class Trial:
    """A module that must give the same merged as it gave live."""

    path: str
    base: nn.Module
    inputs: Tensor
    live: object

    def agrees(self) -> bool:
        """Whether it gives that now."""
        return isinstance(self.live, Tensor) and agree(output_of(self.base, self.inputs, self.base), self.live)


def trials_of(adapters: AdapterSet, updates: Mapping[str, Update]) -> list[Trial]:
    """Each module that is not simply torch's own with its weight, run under its update."""
    trials = []
    for path, update in updates.items():
        base = unwrapped(adapters.layers[path])
        inputs = update.trial_input(base) if update.is_low_rank and not is_untouched(base) else None
        if inputs is not None:
            trials.append(Trial(path, base, inputs, output_of(partial(update, base), inputs, update, base)))
    return trials


def refuse_disagreeing(wrong: Sequence[Trial]) -> None:
    """AdapterStateError naming the modules that compute merged something else than live."""
    names = ", ".join(f"{trial.path} ({type(trial.base).__name__})" for trial in wrong)
    raise AdapterStateError(
        f"the adapter cannot be merged: with the update in its weight {names} computes another function than with the "
        "live adapter, since its forward does more than multiply by the weight; keep the adapter live"
    )
