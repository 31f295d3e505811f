"""The weights of a merged model under the names and in the layout that its files have, each computed when asked for.

Two ways to the same end. From the base's own files, tensor by tensor: each is read from there and, if the adapter
changes it, summed in float32 or wider and rounded once, to the dtype it has in its file (the live model may compute in
another); no two tensors need be in memory. From the live model's tensors: for a model without files, or one whose files
are not what the model holds.

transformers itself says how a model's tensors are called and laid out in files, as `save_pretrained` would write them
(its `revert_weight_conversion`; Mixtral's experts, for one, are a single tensor in the model and many in the files).
What the adapter changes is computed anew whenever it is asked for and kept for one module only, so that merging a large
model holds no more than that.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from loralab.core.adapter import adapters_of
from loralab.core.mergeable import refuse_unmergeable
from loralab.core.names import slots, unwrapped
from loralab.core.updates.tokens import TokenUpdate
from loralab.core.updates.update import Update
from loralab.errors import ModelLoadError, NumericsError, listed
from loralab.files.shards import TensorFolder, TensorKind, in_shards, same_bits

# -- the model's tensors as those of its files -------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """A parameter or persistent buffer of the model: the tensor, the module that holds it and its name there."""

    tensor: Tensor
    owner: nn.Module
    leaf: str

    @property
    def place(self) -> tuple[int, str]:
        """Where it is held: one place may have several names (of a shared module), tied tensors have several places."""
        return id(self.owner), self.leaf


def held_tensors(model: nn.Module) -> dict[str, Held]:
    """Every name in the model's plain state dict → what is held there."""
    inner = unwrapped(model)
    held = {leaf: Held(tensor, inner, leaf) for leaf, tensor in _own(inner)}
    for slot in slots(model):
        for leaf, tensor in _own(slot.module):
            held[f"{slot.path}.{leaf}"] = Held(tensor, slot.module, leaf)
    return held


def sharing_names(held: Mapping[str, Held]) -> dict[str, list[str]]:
    """Name → all names of the very same tensor, itself included."""
    by_tensor: dict[int, list[str]] = {}
    for name, each in held.items():
        by_tensor.setdefault(id(each.tensor), []).append(name)
    return {name: names for names in by_tensor.values() for name in names}


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    passing = module._non_persistent_buffers_set
    for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and leaf not in passing:
            yield leaf, tensor


@dataclass
class Changes:
    """What the adapter `name` does to the model's tensors: a difference to add, or a value to take instead."""

    name: str
    places: dict[str, tuple[Update, nn.Module, str]] = field(default_factory=dict)
    """Plain name → the update, the module that it is at, and the tensor's name within that module."""
    largest: float = 0.0
    """The largest absolute value of any difference: 0 for an adapter that was never trained."""
    _module: nn.Module | None = None
    _differences: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, name: str, held: dict[str, Held]) -> "Changes":
        """Look at everything once; raises NumericsError naming all tensors with NaN or infinity."""
        adapters = adapters_of(model)
        refuse_unmergeable(adapters.adapter(name))
        changes, spoilt = cls(name), []
        for path, update in adapters.adapter(name).updates.items():
            base = unwrapped(adapters.layers[path])
            for local, tensor in {**changes._of_module(update, base), **update.replacements()}.items():
                full = f"{path}.{local}"
                if full not in held:  # a buffer that no state dict holds
                    continue
                changes.places[full] = update, base, local
                new = tensor.detach()
                change = largest(new - held[full].tensor) if local in update.replacements() else largest(new)
                changes.largest = max(changes.largest, change)
                if not math.isfinite(change):
                    spoilt.append(full)
        if spoilt:
            raise NumericsError(f"adapter '{name}' would merge NaN or infinite values into: {listed(spoilt)}")
        return changes

    def replaces(self, full: str) -> bool:
        """Whether this tensor is taken from the adapter as it is, instead of having a difference added."""
        update, _, local = self.places[full]
        return local in update.replacements()

    def led_by(self, full: str) -> str:
        """The name of the tensor whose change is this one's: another's where rows are shared with a tied module."""
        update, _, local = self.places[full]
        return f"{update.follows}.{local}" if isinstance(update, TokenUpdate) and update.follows else full

    def tensor(self, full: str) -> Tensor:
        """The difference ΔW, in float32 or wider, or the value to take instead."""
        update, base, local = self.places[full]
        if self.replaces(full):
            return update.replacements()[local].detach()
        return self._of_module(update, base)[local]

    def _of_module(self, update: Update, base: nn.Module) -> dict[str, Tensor]:
        if self._module is not base:
            with torch.no_grad():
                self._differences = update.deltas(base)
            self._module = base
        return self._differences


def largest(tensor: Tensor) -> float:
    """The largest absolute value; NaN or infinite if any value is."""
    if not tensor.numel():
        return 0.0
    low, high = tensor.aminmax()
    return float(torch.maximum(low.abs(), high.abs()))


@dataclass(frozen=True)
class Merging:
    """A model, one of its adapters, and where the two meet."""

    model: PreTrainedModel
    held: Mapping[str, Held]
    changes: Changes
    changed: Mapping[str, str] = field(init=False)
    """Name → the name under which the adapter changes that place, for all names of changed places."""
    sharing: Mapping[str, list[str]] = field(init=False)
    """Name → all names of the very same tensor."""

    def __post_init__(self) -> None:
        places = {self.held[name].place: self.changes.led_by(name) for name in self.changes.places}
        changed = {name: places[each.place] for name, each in self.held.items() if each.place in places}
        object.__setattr__(self, "changed", changed)
        object.__setattr__(self, "sharing", sharing_names(self.held))

    @classmethod
    def of(cls, model: PreTrainedModel, adapter: str) -> "Merging":
        """Computes every change once; raises NumericsError naming all that are NaN or infinite."""
        held = held_tensors(model)
        return cls(model, held, Changes.of(model, adapter, held))

    @cached_property
    def unties(self) -> bool:
        """Whether tensors that the model shares must be written apart, because the adapter changes one of them."""
        return any(len({self.changed.get(name) for name in names}) > 1 for names in self.sharing.values())

    def in_files(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Some of the model's tensors, or differences of them, as they are called and laid out in its files."""
        laid_out: dict[str, Tensor] = revert_weight_conversion(self.model, dict(tensors))
        return laid_out

    def with_change(self, start: Tensor, changed: str, change: Tensor) -> Tensor:
        """A tensor under its change, rounded once to its dtype; NumericsError where that overflows.

        The change replaces it, or is added in float32 or wider.
        """
        merged = change.to(start.dtype) if self.changes.replaces(changed) else add(start, change)
        if not math.isfinite(largest(merged)):
            raise NumericsError(
                f"adapter '{self.changes.name}' merged into {changed} gives NaN or infinite values in {start.dtype}; "
                "the sum is too large for that dtype"
            )
        return merged

    def shapes_in_files(self, *names: str) -> dict[str, tuple[int, ...]]:
        """The shapes of these tensors in the files; nothing is computed."""
        nothing = {name: torch.empty_like(self.held[name].tensor, device="meta") for name in names}
        return {key: tuple(tensor.shape) for key, tensor in self.in_files(nothing).items()}


def main_dtype(kinds: Mapping[str, TensorKind]) -> torch.dtype:
    """The dtype of most of the numbers among floating-point tensors."""
    count: Counter[torch.dtype] = Counter()
    for kind in kinds.values():
        if kind.dtype.is_floating_point:
            count[kind.dtype] += torch.Size(kind.shape).numel()
    return count.most_common(1)[0][0] if count else torch.float32


def add(start: Tensor, difference: Tensor) -> Tensor:
    """W + ΔW rounded once to W's dtype; summed in float32 or wider."""
    width = torch.promote_types(torch.promote_types(start.dtype, difference.dtype), torch.float32)
    return (start.to(width) + difference.to(start.device, width)).to(start.dtype)


# -- from the base's files -----------------------------------------------------------------------------------------


class FilesDiffer(ModelLoadError):
    """The base's files are not what the live model holds, or store a changed tensor mixed with others; says which."""


@dataclass(frozen=True)
class TensorSource:
    """How one tensor is made."""

    kind: TensorKind
    stored: str | None
    """The tensor of the base's files that it starts from; None: what the live model holds."""
    name: str | None
    """The model's own name for it; None for one that the model has no place for, or not by itself: it is copied."""


@dataclass
class Recipes:
    """The source and the file of every tensor that is to be written."""

    merging: Merging
    base: TensorFolder
    sources: dict[str, TensorSource] = field(default_factory=dict)
    file_of: dict[str, str] = field(default_factory=dict)
    _parts: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    _module: nn.Module | None = None

    @classmethod
    def of(cls, merging: Merging, base: TensorFolder) -> "Recipes":
        """Find every tensor's counterpart and check that it holds what the live model does; FilesDiffer if not."""
        made = cls(merging, base)
        shapes = merging.shapes_in_files(*merging.held)
        names = made._names_in_files(shapes)
        for key, shape in shapes.items():
            made._add(key, shape, names.get(key))
        used = {source.stored for source in made.sources.values()}
        for key in base.file_of:
            if key not in used and key not in made.sources and made._is_foreign(key, shapes):
                made.sources[key] = TensorSource(base.kinds[key], key, None)
                made.file_of[key] = base.file_of[key]
        made._check()
        return made

    @property
    def kinds(self) -> Mapping[str, TensorKind]:
        """What each tensor is."""
        return {key: source.kind for key, source in self.sources.items()}

    def read(self, key: str) -> Tensor:
        """One tensor, merged."""
        source = self.sources[key]
        changed = self.merging.changed.get(source.name or "")
        if changed is None:
            return self._start(key)
        start = torch.empty((), dtype=source.kind.dtype) if self.merging.changes.replaces(changed) else self._start(key)
        return self.merging.with_change(start, changed, self._change(key, source.name or "", changed))

    # -- finding ----------------------------------------------------------------------------------------------

    def _names_in_files(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
        """Tensor in the files → the one of the model that it is (a part of). Where it mixes several there is none."""
        found = {}
        for name in self.merging.held:
            alone = self.merging.shapes_in_files(name)
            own = [key for key, shape in alone.items() if shapes.get(key) == shape]
            if len(own) < len(alone) and name in self.merging.changed:
                raise FilesDiffer(f"{name} is stored mixed with other tensors in this model's files")
            found.update(dict.fromkeys(own, name))
        return found

    def _add(self, key: str, shape: tuple[int, ...], name: str | None) -> None:
        stored = self._stored(key, shape)
        home = self.base.file_of[stored] if stored else max(self.base.file_of.values())
        if stored is None and name is not None:
            stored = self._stored_partner(name, shape)
            if stored is not None and not self.merging.unties:
                return
        if stored is None and name is None:
            raise FilesDiffer(f"{key} is not in the base's files")
        self.sources[key] = TensorSource(TensorKind(self._dtype(stored, name), shape), stored, name)
        self.file_of[key] = home

    def _stored(self, key: str, shape: tuple[int, ...]) -> str | None:
        """What this tensor is called in the base's files: with or without the prefix of the model within a model."""
        prefix = self.merging.model.base_model_prefix + "."
        for candidate in (key, prefix + key, key.removeprefix(prefix)):
            if candidate in self.base.kinds and self.base.kinds[candidate].shape == shape:
                return candidate
        return None

    def _stored_partner(self, name: str, shape: tuple[int, ...]) -> str | None:
        """The stored tensor that this one shares its values with, being the same in the model."""
        for partner in self.merging.sharing[name]:
            for key in self.merging.shapes_in_files(partner):
                if stored := self._stored(key, shape):
                    return stored
        return None

    def _is_foreign(self, key: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether the model has nothing of this name (a head of the same name may have had another shape)."""
        prefix = self.merging.model.base_model_prefix + "."
        return not {key, prefix + key, key.removeprefix(prefix)} & shapes.keys()

    def _dtype(self, stored: str | None, name: str | None) -> torch.dtype:
        if stored is not None:
            return self.base.kinds[stored].dtype
        dtype = self.merging.held[str(name)].tensor.dtype
        return main_dtype(self.base.kinds) if dtype.is_floating_point else dtype

    # -- values -----------------------------------------------------------------------------------------------

    def _start(self, key: str) -> Tensor:
        source = self.sources[key]
        if source.stored is not None:
            return self.base.read(source.stored)
        return self._live(key).to(source.kind.dtype)

    def _live(self, key: str) -> Tensor:
        name = str(self.sources[key].name)
        return self.merging.in_files({name: self.merging.held[name].tensor.detach()})[key].cpu()

    def _change(self, key: str, name: str, changed: str) -> Tensor:
        """The adapter's difference or value as the files have it; those of one module are kept."""
        module = self.merging.changes.places[changed][1]
        if module is not self._module:
            self._parts, self._module = {}, module
        if (name, key) not in self._parts:
            for part, tensor in self.merging.in_files({name: self.merging.changes.tensor(changed)}).items():
                self._parts[name, part] = tensor.cpu()
        return self._parts[name, key]

    def _check(self) -> None:
        """What is copied or added to must be what the live model computes with, in the live model's precision."""
        for key, source in self.sources.items():
            if source.name is None or source.stored is None:
                continue
            changed = self.merging.changed.get(source.name)
            if changed is not None and self.merging.changes.replaces(changed):
                continue
            live = self._live(key)
            if not same_bits(self.base.read(source.stored).to(live.dtype), live):
                raise FilesDiffer(f"{source.stored} in {self.base.folder} is not what the live model holds")


# -- from the files or from memory ---------------------------------------------------------------------------------

SHARD_BYTES = 5 * 10**9
"""The size of the files that are written from memory."""


@dataclass(frozen=True)
class MergedWeights:
    """All tensors of the merged files."""

    kinds: Mapping[str, TensorKind]
    file_of: Mapping[str, str]
    read: Callable[[str], Tensor]
    """One of them, computed now. Raises NumericsError where rounding it overflows."""
    changed: int
    """How many tensors of the model the adapter changes."""
    largest_change: float
    unties: bool
    """Whether tensors that the model shares are written apart, because the adapter changes one of them."""
    notes: tuple[str, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that most of the weights have."""
        return main_dtype(self.kinds)


def merged_weights(model: PreTrainedModel, adapter: str, base: TensorFolder | None) -> MergedWeights:
    """The weights of `model` with its adapter merged, from the files of `base` where there are such; nothing changes.

    The notes say it if those files could not be used. Raises NumericsError for NaN or infinity in the adapter,
    ModelLoadError for damaged files.
    """
    merging = Merging.of(model, adapter)
    if base is None:
        return _from_memory(merging, None, ())
    try:
        return _from_files(merging, base)
    except FilesDiffer as finding:
        return _from_memory(merging, base, (f"{finding}; the model was written from memory",))


def _from_files(merging: Merging, base: TensorFolder) -> MergedWeights:
    recipes = Recipes.of(merging, base)
    return MergedWeights(
        recipes.kinds,
        recipes.file_of,
        recipes.read,
        len(merging.changes.places),
        merging.changes.largest,
        merging.unties,
    )


def _from_memory(merging: Merging, base: TensorFolder | None, notes: tuple[str, ...]) -> MergedWeights:
    """In the dtypes of the base's files where there are such, else in those of the live model."""
    names = _names_to_save(merging)
    tensors = merging.in_files({name: _in_memory(merging, name, _dtype(merging, name, base)) for name in names})
    kinds = {key: TensorKind.of(tensor) for key, tensor in tensors.items()}
    return MergedWeights(
        kinds,
        in_shards(kinds, SHARD_BYTES),
        tensors.__getitem__,
        len(merging.changes.places),
        merging.changes.largest,
        merging.unties,
        notes,
    )


def _names_to_save(merging: Merging) -> list[str]:
    """All names but those that transformers ties to another one by itself."""
    tied: Mapping[str, str] = {} if merging.unties else merging.model.all_tied_weights_keys
    return [name for name in merging.held if tied.get(name) not in merging.sharing[name]]


def _dtype(merging: Merging, name: str, base: TensorFolder | None) -> torch.dtype:
    own = merging.held[name].tensor.dtype
    if base is None or not own.is_floating_point:
        return own
    stored = {base.kinds[key].dtype for key in merging.shapes_in_files(name) if key in base.kinds}
    return stored.pop() if len(stored) == 1 else main_dtype(base.kinds)


def _in_memory(merging: Merging, name: str, dtype: torch.dtype) -> Tensor:
    tensor = merging.held[name].tensor.detach().to(dtype)
    changed = merging.changed.get(name)
    return tensor if changed is None else merging.with_change(tensor, changed, merging.changes.tensor(changed))
