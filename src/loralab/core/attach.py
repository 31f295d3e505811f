"""Put adapters on a model, choose which one speaks, take them off again.

Attaching replaces each adapted module by a layer that holds it (`layer.py`) and freezes the base. Nothing else
about the model changes, and `detach` puts the very same modules back.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from loralab.core.adapter import Adapter, AdapterSet, adapters_of, adapters_on, keep_adapters, refuse_foreign_adapter
from loralab.core.layer import AdaptedLayer, PerSequence, Speaker, names_of
from loralab.core.merge import originals_in_place
from loralab.core.names import Slot, base_modules, elsewhere, slots, stacks_in, unwrapped
from loralab.core.plan import JointMethod, Method, Plan
from loralab.core.rows.listener import Listener
from loralab.core.rows.speaker import speaker
from loralab.core.saving import guard_saving
from loralab.core.updates.substitution import AttentionUpdate
from loralab.core.updates.update import Update
from loralab.core.watch import pass_through
from loralab.errors import AdapterStateError, SpecError, TargetError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def attach(model: nn.Module, spec: Method | Sequence[Method], name: str = "default") -> Adapter:
    """Put a fresh adapter on any nn.Module, freeze the base, make the adapter active and return it.

    Several specifications make one adapter that does all of it at once (LoRA and a prefix, say).

    The model computes what it did before, bit for bit, until the adapter is trained. Raises TargetError if a target
    names nothing, SpecError if the specification or the name cannot be, AdapterStateError if the name is taken, an
    adapter is merged, or transformers has put one of PEFT's on the model; the model is then as it was.
    """
    _refuse_unready(model, name)
    spec = JointMethod(tuple(spec)) if isinstance(spec, Sequence) else spec
    return put(model, spec.plan(model), spec, name)


def put(model: nn.Module, plan: Plan, spec: object, name: str) -> Adapter:
    """Put a plan that is made already on the model, as `attach` does; `spec` is what it came from."""
    _refuse_unready(model, name)
    adapters = adapters_on(model)
    places = _places(model, plan.updates)
    _refuse_overlap(plan.updates, adapters)
    _refuse_computed(plan.updates, places)
    if not adapters.adapters:
        adapters.trained_before = [p for p in model.parameters() if p.requires_grad]
    _freeze_base(model)
    adapters.hold_statistics(model)
    adapters.share(plan.shared)
    for path, update in plan.updates.items():
        _put(adapters, name, path, update, places[path])
    layers = {path: adapters.layers[path] for path in plan.updates}
    notes = [*plan.notes, *_wrapper_notes(model)]
    known = stacks_in(model), elsewhere(model, plan.updates)
    adapter = Adapter(name, spec, dict(plan.updates), notes, layers, plan.heads, plan.shared, *known)
    adapters.adapters[name] = adapter
    _listen(model, adapters)
    guard_saving(model, adapters)
    adapters.route(active=name)
    keep_adapters(model, adapters)
    for parameter in adapter.parameters():
        parameter.requires_grad_(True)
    _prove_reached(model, name)
    return adapter


def _refuse_unready(model: nn.Module, name: str) -> None:
    """An adapter needs a name of its own, a base whose weights are its own, and no adapter of PEFT's beside it."""
    adapters = adapters_on(model)
    _check_name(name, adapters)
    adapters.refuse_merged(f"attaching adapter '{name}'")
    refuse_foreign_adapter(model)
    _refuse_cut(model)


def _refuse_cut(model: nn.Module) -> None:
    """Transformers' tensor parallelism cuts weights and has hooks of the module gather what its parts compute; an
    adapted layer stands before the module, and would need A or B cut by the same plan."""
    parts = getattr(unwrapped(model), "_tp_size", None) or 1
    if parts > 1:
        raise AdapterStateError(
            f"transformers has cut the weights of this model over {parts} processes (its tp_plan), where an adapter "
            "would see slices of what a layer computes; load the model without tp_plan. A base that is too large for "
            "one device is trained with --shard"
        )


def _prove_reached(model: nn.Module, name: str) -> None:
    """Take a fresh adapter off again, with TargetError, where the model passes layers of it by.

    Layers that a pass has called already, under another adapter, need no second one.
    """
    adapters = adapters_of(model)
    first_pass = adapters.first_pass
    if first_pass.proven.issuperset(adapters.adapter(name).layers.values()):
        return
    first_pass.wait(unwrapped(model))
    try:
        pass_through(unwrapped(model))
    except TargetError:
        detach(model, name)
        raise


def detach(model: nn.Module, name: str | None = None, *, keep_merged: bool = False) -> None:
    """Take one adapter, or all, off the model; with the last one the original modules are back, bit for bit.

    A merged model must be unmerged first, or leave its merged weights in the plain modules with `keep_merged`.
    """
    adapters = adapters_of(model)
    if keep_merged:
        adapters.keep_merged()
    adapters.refuse_merged("detaching")
    for gone in [adapters.adapter(name).name] if name is not None else list(adapters.adapters):
        for path in adapters.adapters.pop(gone).updates:
            adapters.layers[path].drop(gone)
        if gone in names_of(adapters.routing.active):
            adapters.route(active=_without(adapters.routing.active, gone))
    _listen(model, adapters)
    _remove(model, [adapters.layers.pop(path) for path, layer in [*adapters.layers.items()] if not len(layer.updates)])
    if not adapters.adapters:
        keep_adapters(model, None)
        guard_saving(model, adapters)
        adapters.first_pass.leave()
        adapters.thaw(True)
        adapters.release_statistics()


def activate(model: nn.Module, name: str | Sequence[str] | None) -> None:
    """From now on this adapter speaks; several by a list, as the exact sum ΔW_a + ΔW_b; None: the base alone.

    Several must be low-rank changes of weights: SpecError, with the reason, for DoRA, for modules and biases that are
    trained in full, for prefixes and inserted layers.
    """
    adapters = adapters_of(model)
    adapters.refuse_merged("switching adapters")
    adapters.route(active=speaker(adapters, name))


def _without(active: Speaker | None, gone: str) -> Speaker | None:
    left = tuple(name for name in names_of(active) if name != gone)
    return left if len(left) > 1 else next(iter(left), None)


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within this block the model is its base, bit for bit, merged or not.

    The base's parameters require gradients again as they did before, because torch chooses kernels by that (in
    nn.MultiheadAttention, and in products with inputs that are not contiguous) and their last digits differ.
    """
    adapters = adapters_of(model)
    before = adapters.routing.active, adapters.routing.rows, adapters.routing.merged
    adapters.route()
    try:
        with originals_in_place(model):
            adapters.thaw(True)
            yield
    finally:
        adapters.thaw(False)
        adapters.route(*before)


@contextmanager
def rows(
    model: nn.Module,
    names: Sequence[str | Sequence[str] | None],
    starts: Sequence[int | None] | Tensor | None = None,
) -> Iterator[None]:
    """Within this block sequence i of every batch is under the adapter names[i] (None: the base), also in training.

    An entry ("a", "b") puts a sequence under the sum of several, as `activate` does.

    `starts` says from which position each sequence's adapter acts, for adapters with an invocation (aLoRA): counted
    from the beginning of the sequence, padding and cached positions included. Where it is None the invocation tokens
    are looked for in the model's `input_ids`. `invocation.NEVER` stands for: not at all.

    Each call of the model must have as many sequences as there are names, or it raises SpecError.
    """
    adapters = adapters_of(model)
    adapters.refuse_merged("rows()")
    if not names:
        raise SpecError("rows() was given no names; give one per sequence of the batch")
    speakers = [speaker(adapters, name) for name in names]
    before = adapters.routing.active, adapters.routing.rows
    adapters.route(adapters.routing.active, PerSequence.of(speakers, _checked_starts(adapters, speakers, starts)))
    guards = [
        unwrapped(model).register_forward_pre_hook(guard, with_kwargs=True)
        for guard in (_batch_guard(len(names)), adapters.row_proofs.before)
    ]
    try:
        yield
    finally:
        for guard in guards:
            guard.remove()
        adapters.routing.layouts = None
        adapters.route(*before)


def _listen(model: nn.Module, adapters: AdapterSet) -> None:
    """Hear the tokens that the model is called with for as long as an adapter on it waits for its invocation."""
    waits = any(adapter.invocation for adapter in adapters.adapters.values())
    if waits and adapters.listener is None:
        adapters.listener = Listener(unwrapped(model), adapters)
    elif not waits and adapters.listener is not None:
        adapters.listener.remove()
        adapters.listener = None


def _checked_starts(
    adapters: AdapterSet, speakers: Sequence[Speaker | None], starts: Sequence[int | None] | Tensor | None
) -> tuple[int | None, ...] | None:
    """One start per sequence, and only for adapters that have an invocation."""
    if starts is None:
        return None
    given = tuple(starts.tolist() if isinstance(starts, Tensor) else starts)
    plain = [at for who, at in zip(speakers, given, strict=False) if at and not adapters.invocation_of(who)]
    wrong = [at for at in given if at is not None and (isinstance(at, bool) or not isinstance(at, int) or at < 0)]
    if len(given) != len(speakers) or plain or wrong:
        raise SpecError(
            f"rows() was given the starts {list(given)} for {[*speakers]}; give one whole number from 0 for each "
            "sequence, and None (or 0) where the base or an adapter without an invocation speaks"
        )
    return given


def _batch_guard(count: int) -> Any:
    def check(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if first is not None and first.dim() and first.shape[0] != count:
            raise SpecError(
                f"rows() names {count} sequences, but the model was called with a batch of {first.shape[0]}; "
                "give one name per sequence"
            )

    return check


def _wrapper_notes(model: nn.Module) -> list[str]:
    if type(model).__name__ != "DistributedDataParallel":
        return []
    return [
        "attached inside DistributedDataParallel, which reduces only the gradients of parameters it has seen: "
        "wrap the model again before training on several processes"
    ]


def _check_name(name: str, adapters: AdapterSet) -> None:
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} is not a valid adapter name: use letters, digits, '.', '_' and '-', beginning with a letter or "
            "digit"
        )
    if name in adapters.adapters:
        raise AdapterStateError(f"adapter {name!r} is on this model already; detach it first or choose another name")


def _places(model: nn.Module, updates: dict[str, Update] | Any) -> dict[str, list[Slot]]:
    """Path → every place where that module hangs (a shared module hangs in several)."""
    everywhere = list(slots(model))
    by_path = {slot.path: slot.module for slot in everywhere}
    lost = [path for path in updates if path not in by_path]
    if lost:
        raise TargetError(
            f"{', '.join(lost)} cannot be replaced: it is the model itself; adapt it inside another module"
        )
    places: dict[int, list[Slot]] = {}
    for slot in everywhere:
        places.setdefault(id(slot.module), []).append(slot)
    return {path: places[id(by_path[path])] for path in updates}


def _refuse_overlap(updates: Any, adapters: AdapterSet) -> None:
    """A module whose tensors are replaced, or computed with others, by way of a module around it cannot be adapted as
    well."""
    replacing = list(updates.items())
    replacing += [(path, update) for path, layer in adapters.layers.items() for update in layer.all_updates()]
    adapted = [*updates, *adapters.layers]
    for outer, update in replacing:
        names = [f"{outer}.{name}" for name in update.replacements()]
        names += [f"{outer}.out_proj.weight"] if isinstance(update, AttentionUpdate) else []
        below = [path for path in adapted if path.startswith(f"{outer}.")] if names else []
        for inner in below:
            if any(name.startswith(inner + ".") for name in names):
                how = "trained in full" if update.replacements() else "adapted"
                raise SpecError(f"{outer} is {how} and {inner} inside it is adapted as well; choose one of the two")


def _refuse_computed(updates: Any, places: dict[str, list[Slot]]) -> None:
    """What is replaced by a trained copy must be a tensor that the module holds, not one it unpacks on demand."""
    for path, update in updates.items():
        for name in update.replacements():
            owner, _, leaf = name.rpartition(".")
            module = places[path][0].module.get_submodule(owner)
            if leaf not in module._parameters and leaf not in module._buffers:
                raise SpecError(
                    f"{path}.{name} is trained in full by this adapter, but {type(module).__name__} does not hold it "
                    "as a tensor; put the adapter on the base that is not quantised"
                )


def _put(adapters: AdapterSet, name: str, path: str, update: Update, places: list[Slot]) -> None:
    layer = adapters.layers.get(path)
    if layer is None:
        layer = AdaptedLayer(places[0].held, adapters.routing)
        for place in places:
            place.parent._modules[place.attribute] = layer
            if isinstance(place.parent, nn.TransformerEncoderLayer):
                adapters.watch(place.parent)
        adapters.layers[path] = layer
    update.train(layer.training)
    layer.put(name, update)


def _remove(model: nn.Module, layers: Sequence[AdaptedLayer]) -> None:
    gone = {id(layer) for layer in layers}
    for parent in list(model.modules()) if gone else ():
        for attribute, child in parent._modules.items():
            if isinstance(child, AdaptedLayer) and id(child) in gone:
                parent._modules[attribute] = child.base


def _freeze_base(model: nn.Module) -> None:
    for module in base_modules(model):
        for parameter in module._parameters.values():
            if parameter is not None:
                parameter.requires_grad_(False)
