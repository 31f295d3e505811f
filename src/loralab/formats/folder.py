"""Save an adapter to a folder and load it into a model: PEFT's layout, with loralab.json beside it.

    adapter_config.json          PEFT's: rank, alpha, targets
    adapter_model.safetensors    PEFT's: the tensors
    loralab.json                 ours: the exact structure, the specification, the base's fingerprint
    plain_lora/                  of a method that PEFT lacks: the plain LoRA that it comes to, where there is one

Loading either puts the whole adapter on the model or raises and leaves the model as it was.
"""

import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from loralab.core.adapter import Adapter, Plan, adapters_on, refuse_foreign_adapter
from loralab.core.attach import attach
from loralab.core.names import modules_by_path, unwrapped
from loralab.core.updates.factors import SharedMatrices
from loralab.core.updates.update import Update
from loralab.errors import AdapterFileError, AdapterStateError, NotFoundError, NumericsError, OutputError, SpecError
from loralab.files.tensor_checks import is_finite, listed
from loralab.files.tensor_writing import write_tensors
from loralab.files.tensors import read_tensors
from loralab.files.whole import json_text, whole_file
from loralab.formats.fingerprint import Fingerprint, fingerprint
from loralab.formats.loralib import read_loralib
from loralab.formats.own import from_own, own_config, own_tensors
from loralab.formats.peft.config import CONFIG_NAME, OWN_TYPE, PeftConfig, parse_config, read_json
from loralab.formats.peft.dialects import as_plain_lora
from loralab.formats.peft.reading import from_peft
from loralab.formats.peft.tokens import ambiguous_rows
from loralab.formats.peft.vera import has_vera, vera_from_peft, vera_to_peft, why_not_peft_vera
from loralab.formats.peft.vera_config import is_vera, vera_spec
from loralab.formats.peft.writing import base_name, reasons_against_peft, to_peft
from loralab.formats.record import adapted_tensors, describe
from loralab.formats.sidecar import (
    OWN_LAYOUT,
    PEFT_LAYOUT,
    SIDECAR_NAME,
    Sidecar,
    file_sha256,
    method_to_json,
    read_sidecar,
)
from loralab.methods.beside import fresh_heads, random_beside, tie_notes
from loralab.methods.lora import LoRA
from loralab.methods.wide_ranks import rank_notes
from loralab.models.outputs import output_names
from loralab.tasks.label_order import are_placeholders

TENSORS_NAME = "adapter_model.safetensors"
OLD_TENSORS_NAME = "adapter_model.bin"
PLAIN_NAME = "plain_lora"
"""The folder, in that of an adapter which PEFT has no way to express, of the plain LoRA that it comes to."""
_MODEL_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


@dataclass(frozen=True)
class Loaded:
    """An adapter as it was read: a method whose plan is made already."""

    updates: Mapping[str, Update]
    spec: object
    notes: Sequence[str]
    heads: tuple[str, ...] = ()
    shared: SharedMatrices | None = None

    def plan(self, model: nn.Module) -> Plan:
        """The plan that was read."""
        return Plan(self.updates, tuple(self.notes), self.heads, self.shared)


# -- saving ---------------------------------------------------------------------------------------------------


def save(adapter: Adapter, path: str | Path, *, model: nn.Module | None = None, overwrite: bool = False) -> Path:
    """Write the adapter into the folder `path` and return it; each file is written whole and moved into place.

    With `model`, the base's name and task are recorded for PEFT too. An adapter that loralab saved there before is
    replaced; other files of the folder stay. Raises OutputError for a folder that holds a model or another program's
    adapter (unless `overwrite`) and where writing fails, NumericsError for NaN, AdapterStateError for empty tensors,
    a merged model, or a `model` whose head is random and not the adapter's.
    """
    folder = Path(path)
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
        _fingerprint(updates, bases, model, adapter.heads),
        "",
        adapter.notes,
        adapter.heads,
        {} if shared is None else {name: isinstance(each, nn.Parameter) for name, each in shared.stored()},
        _named_outputs(model),
    )
    _drop_plain(folder)
    _write(folder, config, tensors, sidecar)
    if layout == OWN_LAYOUT:
        _write_plain(folder / PLAIN_NAME, updates, bases, model, sidecar, adapter.stacks)
    if overwrite:
        (folder / OLD_TENSORS_NAME).unlink(missing_ok=True)
    return folder


def _named_outputs(model: nn.Module | None) -> tuple[str, ...]:
    """The classes of a classifier in the order of its outputs; empty where it does not name them."""
    if model is None or not fresh_heads(model):
        return ()
    names = output_names(getattr(unwrapped(model), "config", None)) or ()
    return () if are_placeholders(names) else names


def _drop_plain(folder: Path) -> None:
    """Remove the plain LoRA beside an adapter: before another adapter is written, so that it never stands for that."""
    if (folder / PLAIN_NAME / SIDECAR_NAME).exists():
        shutil.rmtree(folder / PLAIN_NAME)


def _write_plain(
    folder: Path,
    updates: Mapping[str, Update],
    bases: Mapping[str, nn.Module],
    model: nn.Module | None,
    sidecar: Sidecar,
    stacks: Collection[str],
) -> None:
    """The plain LoRA that the updates come to, for PEFT and whatever reads its files; nothing where there is none."""
    plain = {where: update.plain() for where, update in updates.items()}
    if reasons_against_peft(plain, bases, stacks) or ambiguous_rows(plain, model):
        return
    packed = to_peft(plain, bases, 0.0, model, stacks)
    records = {where: describe(update, bases[where]) for where, update in plain.items()}
    exported = replace(
        sidecar, layout=PEFT_LAYOUT, method={"type": "Exported", "of": dict(sidecar.method)}, modules=records, shared={}
    )
    _write(folder, packed.config.to_json(), packed.tensors, exported)


def _laid_out(
    adapter: Adapter, updates: Mapping[str, Update], bases: Mapping[str, nn.Module], model: nn.Module | None
) -> tuple[str, Mapping[str, Any], Mapping[str, Tensor]]:
    """(the layout, adapter_config.json, the tensors): PEFT's wherever PEFT knows the method."""
    if has_vera(updates) and not why_not_peft_vera(updates, bases) and adapter.shared is not None:
        return PEFT_LAYOUT, *vera_to_peft(updates, adapter.shared, bases, adapter.spec, model)
    reasons = [*reasons_against_peft(updates, bases, adapter.stacks), *ambiguous_rows(updates, model)]
    if reasons:
        return OWN_LAYOUT, own_config(reasons, base_name(model)), own_tensors(updates, adapter.shared)
    packed = to_peft(updates, bases, _dropout(adapter), model, adapter.stacks)
    return PEFT_LAYOUT, packed.config.to_json(), packed.tensors


def _write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], sidecar: Sidecar) -> None:
    """All three files are whole before the first is moved into place; the configuration is moved last."""
    with ExitStack() as moves:
        config_file, sidecar_file, tensors_file = (
            moves.enter_context(whole_file(folder / name)) for name in (CONFIG_NAME, SIDECAR_NAME, TENSORS_NAME)
        )
        write_tensors(tensors_file, tensors)
        content = sidecar.to_json() | {"tensors_sha256": file_sha256(tensors_file)}
        sidecar_file.write_text(json_text(content), encoding="utf-8")
        config_file.write_text(json_text(config, sort_keys=True), encoding="utf-8")


def _refuse_unsound(adapter: Adapter) -> None:
    """What would be written must be whole and finite, and the base must be the base."""
    if any(layer.routing.merged is not None for layer in adapter.layers.values()):
        raise AdapterStateError(
            f"saving adapter '{adapter.name}' was asked for while an adapter is merged into the base weights, whose "
            "fingerprint would be wrong; call unmerge(model) first"
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
        raise OutputError(f"{folder} was asked for as an adapter's folder, but it is a file; name another place")
    if overwrite or not folder.exists():
        return
    model_files = [name for name in _MODEL_FILES if (folder / name).exists()]
    if model_files:
        raise OutputError(
            f"{folder} holds a model ({', '.join(model_files)}); an adapter beside it would be applied "
            "whenever the model is loaded. Name another folder, or pass overwrite=True"
        )
    theirs = [name for name in (CONFIG_NAME, TENSORS_NAME, OLD_TENSORS_NAME) if (folder / name).exists()]
    if theirs and not (folder / SIDECAR_NAME).exists():
        raise OutputError(
            f"{folder} holds an adapter that loralab did not write ({', '.join(theirs)}); name another folder, "
            "or pass overwrite=True to replace it"
        )


def _fingerprint(
    updates: Mapping[str, Update], bases: Mapping[str, nn.Module], model: nn.Module | None, heads: Sequence[str]
) -> Fingerprint:
    """Of everything but heads, which start at random on the base."""
    adapted = (
        (path, bases[path], adapted_tensors(update, bases[path]))
        for path, update in updates.items()
        if not any(path == head or path.startswith(f"{head}.") for head in heads)
    )
    return fingerprint(adapted, None if model is None else unwrapped(model))


def _dropout(adapter: Adapter) -> float:
    return max(
        (update.delta_of(part).recipe.dropout for update in adapter.updates.values() for part in update.parts),
        default=0.0,
    )


# -- loading --------------------------------------------------------------------------------------------------


def load(
    model: nn.Module,
    path: str | Path,
    name: str | None = None,
    *,
    alpha: float | None = None,
    rank_stabilized: bool = False,
    allow_other_base: bool = False,
    allow_random_head: bool = False,
) -> Adapter:
    """Read an adapter from disk, put it on the model, make it active and return it.

    `path` is a PEFT folder, or a loralib checkpoint, which does not record its `alpha`. Strict: AdapterFileError
    lists every tensor that is missing, extra, misshapen or not finite and every setting that is not supported;
    FingerprintError if the adapter was trained on another base (unless `allow_other_base`); AdapterStateError for a
    model whose head is random, where the adapter holds none (unless `allow_random_head`); the model is then as it
    was. `name` defaults to the folder's or file's name.
    """
    source = Path(path)
    refuse_foreign_adapter(model)
    adapters_on(model).refuse_merged("loading an adapter")
    if source.is_dir():
        _refuse_alpha(source, alpha, rank_stabilized)
        loaded = _read_folder(model, source, allow_other_base)
    else:
        loaded = Loaded(*read_loralib(model, read_tensors(source), alpha, rank_stabilized))
    if not allow_random_head:
        _refuse_headless(model, source, loaded)
    adapter = attach(model, loaded, name if name is not None else name_for(source))
    adapter.spec = loaded.spec
    return adapter


def _refuse_headless(model: nn.Module, source: Path, loaded: Loaded) -> None:
    random = random_beside(model, loaded.updates)
    if random:
        raise AdapterStateError(
            f"adapter {source} was to be loaded onto {type(unwrapped(model)).__name__}, whose {listed(random)} no "
            "checkpoint has filled, and the adapter does not hold them: the outputs would be random. Load the base "
            "with the head that the adapter was trained beside, or train the adapter again with its head; to train a "
            "new head on, pass allow_random_head=True"
        )


def name_for(path: Path) -> str:
    """An adapter's name from its folder or file: what may not be in a name becomes '-'."""
    stem = path.resolve().name if path.is_dir() else path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-") or "default"


def tensors_path(folder: Path) -> Path:
    """The file with the tensors of a PEFT folder; NotFoundError if there is none."""
    for name in (TENSORS_NAME, OLD_TENSORS_NAME):
        if (folder / name).exists():
            return folder / name
    raise NotFoundError(f"{folder} was asked for as an adapter, but there is no {TENSORS_NAME} in it")


def config_content(folder: Path) -> dict[str, Any]:
    """The content of a folder's adapter_config.json; NotFoundError says where adapters are instead."""
    if not (folder / CONFIG_NAME).exists():
        inside = sorted(found.parent.name for found in folder.glob(f"*/{CONFIG_NAME}"))
        hint = f"; there are adapters in its folders {', '.join(inside)}" if inside else ""
        raise NotFoundError(f"{folder} was asked for as an adapter, but there is no {CONFIG_NAME} in it{hint}")
    return read_json(folder / CONFIG_NAME)


def plain_folder(folder: Path) -> Path:
    """The plain LoRA that lies in the folder of a method which PEFT lacks; the folder itself where there is none."""
    is_own = config_content(folder).get("peft_type") == OWN_TYPE
    whole = (folder / PLAIN_NAME / CONFIG_NAME).is_file()  # which is moved into place last
    return folder / PLAIN_NAME if is_own and whole else folder


def _read_folder(model: nn.Module, folder: Path, allow_other_base: bool) -> Loaded:
    content, file, sidecar = config_content(folder), tensors_path(folder), read_sidecar(folder)
    if sidecar is not None:
        sidecar.check_belongs(file)
    tensors = read_tensors(file).tensors
    shared: SharedMatrices | None = None
    if content.get("peft_type") == OWN_TYPE:
        known = _sidecar_of_own(folder, sidecar)
        updates, shared = from_own(model, tensors, known.modules, known.shared)
        spec: object = known.spec()
        notes: list[str] = []
    elif is_vera(content):
        updates, shared, notes = vera_from_peft(model, content, tensors, sidecar, str(folder / CONFIG_NAME))
        spec = (sidecar.spec() if sidecar else None) or vera_spec(content, str(folder / CONFIG_NAME))
    else:
        plain = as_plain_lora(content, tensors)
        config = parse_config(plain.content, str(folder / CONFIG_NAME))
        updates, notes = from_peft(model, config, plain.tensors, sidecar)
        notes = [*plain.notes, *notes]
        spec = (sidecar.spec() if sidecar else None) or _spec_of(config)
    beside = [name for name in _MODEL_FILES if name != "config.json" and (folder / name).exists()]
    if beside:
        notes.append(f"the folder holds a whole model too ({', '.join(beside)}); the adapter alone was read")
    if sidecar is None:
        notes.append("the folder has no loralab.json: whether the base model is the right one could not be checked")
    elif not allow_other_base:
        by_path = modules_by_path(model)
        sidecar.fingerprint.check(_fingerprint(updates, by_path, model, sidecar.heads))
    said = sidecar.notes if sidecar else ()
    heads = sidecar.heads if sidecar else ()
    notes += [*rank_notes(updates), *tie_notes(model, updates)]
    return Loaded(updates, spec, list(dict.fromkeys([*said, *notes])), heads, shared)


def _sidecar_of_own(folder: Path, sidecar: Sidecar | None) -> Sidecar:
    if sidecar is None:
        raise AdapterFileError(f"{folder} is an adapter that only loralab can read, but its {SIDECAR_NAME} is missing")
    return sidecar


def _refuse_alpha(folder: Path, alpha: float | None, rank_stabilized: bool) -> None:
    if alpha is not None or rank_stabilized:
        raise SpecError(
            f"alpha or rank_stabilized was given for {folder}, whose {CONFIG_NAME} says its own; leave them out"
        )


def _spec_of(config: PeftConfig) -> LoRA:
    """The specification that comes nearest to a PEFT configuration."""
    targets = [config.targets] if isinstance(config.targets, str) else list(config.targets or ())
    try:
        return LoRA(
            rank=config.rank,
            alpha=config.alpha,
            dropout=config.dropout,
            targets=[*targets, *config.target_parameters],
            exclude=[config.exclude] if isinstance(config.exclude, str) else list(config.exclude),
            layers=config.layers,
            rank_pattern=config.rank_pattern,
            alpha_pattern=config.alpha_pattern,
            bias=config.trained_bias,
            modules_to_save=config.modules_to_save,
            rank_stabilized=config.rank_stabilized,
            magnitude=config.magnitude,
            trainable_token_indices=config.tokens,
            invocation_tokens=config.invocation or None,
        )
    except SpecError as problem:
        raise AdapterFileError(f"{CONFIG_NAME} cannot be: {problem}") from problem
