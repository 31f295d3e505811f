"""The weights of a merged model under the names and in the layout that its files have, each computed when asked for.

Two ways to the same end. From the base's own files: each tensor is read from there and changed if the adapter changes
it, so that no two tensors need be in memory. From the live model's tensors: for a model without files, or one whose
files are not what the model holds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loralab.files.shards import TensorFolder, TensorKind, in_shards
from loralab.formats.merged.from_files import FilesDiffer, Recipes
from loralab.formats.merged.layout import Merging, main_dtype

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
