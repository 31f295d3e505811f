"""The weights of a merged model under the names and in the layout that its files have, each computed when asked for.

Two ways to the same end. From the base's own files, tensor by tensor: each is read from there and, if the adapter
changes it, summed in float32 or wider and rounded once, to the dtype it has in its file (the live model may compute in
another); no two tensors need be in memory. From the live model's tensors: for a model without files, or one whose files
are not what the model holds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from loralab.errors import ModelLoadError
from loralab.files.shards import TensorFolder, TensorKind, in_shards, same_bits
from loralab.formats.merged.layout import Merging, main_dtype

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
