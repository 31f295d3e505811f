"""Save an adapter into a folder: PEFT's layout wherever PEFT knows the method, with loralab.json beside it.

The files and their names are in `files/names.py`.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from loralab.core.adapter import Adapter
from loralab.core.names import unwrapped
from loralab.core.updates.update import Update
from loralab.errors import AdapterStateError, NumericsError, OutputError, SpecError, listed
from loralab.files.names import (
    CONFIG_NAME,
    OLD_TENSORS_NAME,
    PEFT_FILES,
    PLAIN_NAME,
    SIDECAR_NAME,
    TENSORS_NAME,
    model_files,
)
from loralab.files.tensors import is_finite, write_tensors
from loralab.files.whole import json_text, whole_changes
from loralab.formats.fingerprint import Fingerprint, fingerprint_under
from loralab.formats.own import own_config, own_tensors
from loralab.formats.peft.vera import has_vera, vera_to_peft, why_not_peft_vera
from loralab.formats.peft.writing import base_name, reasons_of_places, to_peft, why_not_written
from loralab.formats.record import describe
from loralab.formats.sidecar import OWN_LAYOUT, PEFT_LAYOUT, Sidecar, file_sha256, method_to_json
from loralab.methods.beside import fresh_heads, random_beside
from loralab.models.outputs import are_placeholders, output_names
from loralab.models.processor import write_processor
from loralab.models.processor_names import processor_files

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedTokenizerBase


def save(
    adapter: Adapter,
    path: str | Path,
    *,
    model: nn.Module | None = None,
    tokenizer: "PreTrainedTokenizerBase | BaseImageProcessor | None" = None,
    overwrite: bool = False,
    base: Fingerprint | None = None,
) -> Path:
    """Write the adapter into the folder `path` and return it: all its files change together, or none.

    With `model`, the base's name and task are recorded for PEFT too; a `tokenizer` (or image processor) is written
    beside the adapter with its chat template, in place of any that lies there. `base` is its fingerprint, where
    `base_print` gave it before: a large one takes a while. An adapter that loralab saved there before is replaced;
    other files of the folder stay. Raises OutputError for a folder that holds a model or another program's adapter
    (unless `overwrite`) and where writing fails, NumericsError for NaN, AdapterStateError for empty tensors, a merged
    model, or a `model` whose head is random and not the adapter's, SpecError for what is no adapter.
    """
    if not isinstance(adapter, Adapter):
        raise SpecError(
            f"save was given a {type(adapter).__name__}, not an adapter; give it what attach or load returned, as in "
            "save(adapter, path, model=model)"
        )
    write_adapter(adapter, Path(path), model=model, tokenizer=tokenizer, overwrite=overwrite, base=base)
    return Path(path)


def write_adapter(
    adapter: Adapter,
    folder: Path,
    *,
    model: nn.Module | None = None,
    tokenizer: "PreTrainedTokenizerBase | BaseImageProcessor | None" = None,
    overwrite: bool = False,
    base: Fingerprint | None = None,
    beside: Mapping[str, str] | None = None,
) -> None:
    """As `save`, with texts by file name that are to lie beside the adapter. All of it changes together."""
    bases = {where: unwrapped(layer) for where, layer in adapter.layers.items()}
    _refuse_unsound(adapter)
    if model is not None:
        _refuse_random_head(adapter, model)
    _refuse_foreign(folder, overwrite)
    updates = {where: update.stored_form() for where, update in adapter.updates.items()}
    layout, config, tensors = _laid_out(adapter, updates, bases, model)
    shared = adapter.shared
    sidecar = Sidecar(
        layout,
        method_to_json(adapter.spec),
        {where: describe(update, bases[where]) for where, update in updates.items()},
        base_print(adapter, model) if base is None else base,
        "",
        adapter.notes,
        adapter.heads,
        {} if shared is None else {name: isinstance(each, nn.Parameter) for name, each in shared.stored()},
        _named_outputs(model),
    )
    with whole_changes(folder, CONFIG_NAME) as changes:
        if (folder / PLAIN_NAME / SIDECAR_NAME).exists():
            changes.remove(PLAIN_NAME)  # it would stand for another adapter
        write_folder(changes.new, config, tensors, sidecar)
        if layout == OWN_LAYOUT and not reasons_of_places(updates, adapter.elsewhere):
            _write_plain(changes.new / PLAIN_NAME, updates, bases, model, sidecar, adapter.stacks)
        if overwrite:
            changes.remove(OLD_TENSORS_NAME)
        if tokenizer is not None:
            changes.remove(*processor_files().difference(write_processor(tokenizer, changes.new)))
        for name, text in (beside or {}).items():
            (changes.new / name).write_text(text, encoding="utf-8")


def base_print(adapter: Adapter, model: nn.Module | None) -> Fingerprint:
    """The fingerprint of the base that the adapter is on: that of all that it changes or builds on."""
    bases = {where: unwrapped(layer) for where, layer in adapter.layers.items()}
    return fingerprint_under(adapter.updates, bases, model, adapter.heads)


def _named_outputs(model: nn.Module | None) -> tuple[str, ...]:
    """The classes of a classifier in the order of its outputs; empty where it does not name them."""
    if model is None or not fresh_heads(model):
        return ()
    names = output_names(getattr(unwrapped(model), "config", None)) or ()
    return () if are_placeholders(names) else names


def _write_plain(
    folder: Path,
    updates: Mapping[str, Update],
    bases: Mapping[str, nn.Module],
    model: nn.Module | None,
    sidecar: Sidecar,
    stacks: Collection[str],
) -> None:
    """Write the plain LoRA that the updates come to, if there is one, for PEFT and whatever reads its files."""
    plain = {where: update.plain() for where, update in updates.items()}
    if why_not_written(plain, bases, model, stacks):
        return
    packed = to_peft(plain, bases, 0.0, model, stacks)
    records = {where: describe(update, bases[where]) for where, update in plain.items()}
    exported = replace(
        sidecar, layout=PEFT_LAYOUT, method={"type": "Exported", "of": dict(sidecar.method)}, modules=records, shared={}
    )
    write_folder(folder, packed.config.to_json(), packed.tensors, exported)


def _laid_out(
    adapter: Adapter, updates: Mapping[str, Update], bases: Mapping[str, nn.Module], model: nn.Module | None
) -> tuple[str, Mapping[str, Any], Mapping[str, Tensor]]:
    """(the layout, adapter_config.json, the tensors): PEFT's wherever PEFT knows the method."""
    places = reasons_of_places(updates, adapter.elsewhere)
    if has_vera(updates) and not (places or why_not_peft_vera(updates, bases)) and adapter.shared is not None:
        return PEFT_LAYOUT, *vera_to_peft(updates, adapter.shared, bases, adapter.spec, model)
    reasons = [*places, *why_not_written(updates, bases, model, adapter.stacks)]
    if reasons:
        return OWN_LAYOUT, own_config(reasons, base_name(model)), own_tensors(updates, adapter.shared)
    packed = to_peft(updates, bases, _dropout(adapter), model, adapter.stacks)
    return PEFT_LAYOUT, packed.config.to_json(), packed.tensors


def _refuse_unsound(adapter: Adapter) -> None:
    """What would be written must be whole and finite, and the base must be the base."""
    if any(layer.routing.merged is not None for layer in adapter.layers.values()):
        raise AdapterStateError(
            f"adapter '{adapter.name}' cannot be saved while an adapter is merged into the base weights, whose "
            "fingerprint would be wrong: call unmerge(model) first"
        )
    empty = [name for name, tensor in adapter.named_tensors() if tensor.numel() == 0]
    if empty:
        raise AdapterStateError(
            f"adapter '{adapter.name}' has empty tensors: {listed(empty)}; "
            "sharded weights must be gathered before saving"
        )
    spoilt = [name for name, tensor in adapter.named_tensors() if not is_finite(tensor)]
    if spoilt:
        raise NumericsError(f"adapter '{adapter.name}' holds NaN or infinite values: {listed(spoilt)}; it is not saved")


def _refuse_random_head(adapter: Adapter, model: nn.Module) -> None:
    """A head that is random in the model and not in the folder would be another one after loading."""
    random = random_beside(model, adapter.updates)
    if random:
        raise AdapterStateError(
            f"adapter '{adapter.name}' does not hold {listed(random)}, which its checkpoint does not hold either: "
            "they would be random again after loading. Name their modules in modules_to_save before training, or save "
            "the base with its head and load it from there"
        )


def _refuse_foreign(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file, not a folder for an adapter; name another place")
    if overwrite or not folder.exists():
        return
    of_model = model_files(folder)
    if of_model:
        raise OutputError(
            f"{folder} holds a model ({', '.join(of_model)}); an adapter beside it would be applied "
            "whenever the model is loaded. Name another folder, or pass overwrite=True"
        )
    theirs = [name for name in PEFT_FILES if (folder / name).exists()]
    if theirs and not (folder / SIDECAR_NAME).exists():
        raise OutputError(
            f"{folder} holds an adapter that loralab did not write ({', '.join(theirs)}); name another folder, "
            "or pass overwrite=True to replace it"
        )


def _dropout(adapter: Adapter) -> float:
    return max(
        (update.delta_of(part).recipe.dropout for update in adapter.updates.values() for part in update.parts),
        default=0.0,
    )


def write_folder(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], sidecar: Sidecar | None
) -> None:
    """Write an adapter's files into a folder that is not in its place yet, the sidecar with the hash of these tensors.

    Raises OSError where writing fails.
    """
    folder.mkdir(exist_ok=True)
    write_tensors(folder / TENSORS_NAME, tensors)
    if sidecar is not None:
        content = sidecar.to_json() | {"tensors_sha256": file_sha256(folder / TENSORS_NAME)}
        (folder / SIDECAR_NAME).write_text(json_text(content), encoding="utf-8")
    (folder / CONFIG_NAME).write_text(json_text(config, sort_keys=True), encoding="utf-8")
