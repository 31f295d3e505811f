"""Adapters that PEFT has no way to express: the same folder shape, with the adapter's own tensor names.

adapter_config.json then has a `peft_type` that PEFT does not know and the reasons, so that PEFT refuses the folder
instead of computing something else.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.adapter import SHARED
from loralab.core.names import modules_by_path, unwrapped
from loralab.core.plan import link
from loralab.core.updates.factors import SharedMatrices
from loralab.core.updates.update import WHOLE, Update
from loralab.errors import AdapterFileError
from loralab.files.names import OWN_TYPE
from loralab.files.tensors import refuse_unfit
from loralab.files.values import texts
from loralab.formats.record import ModuleRecord
from loralab.formats.updates import shared_matrices
from loralab.methods.beside import share_ties
from loralab.nn.tensors import device_of, has_tensor, tensor_of


def own_config(reasons: Sequence[str], base_model: str | None) -> dict[str, Any]:
    """The content of adapter_config.json."""
    return {"peft_type": OWN_TYPE, "base_model_name_or_path": base_model, "why_not_peft": list(reasons)}


def own_reasons(content: Mapping[str, Any]) -> list[str]:
    """Why PEFT's layout would not do, from the content of adapter_config.json; AdapterFileError if it is damaged."""
    try:
        return texts(content.get("why_not_peft", []), "why_not_peft")
    except TypeError as problem:
        raise AdapterFileError(f"adapter_config.json is damaged: {problem}; save the adapter again") from problem


def own_tensors(updates: Mapping[str, Update], shared: SharedMatrices | None = None) -> dict[str, Tensor]:
    """`<module path>.<lora_A | q.lora_B | bias | …>` → tensor, as `Adapter.named_tensors` has them: tied ones once."""
    first: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in () if shared is None else shared.stored():
        first[id(tensor)] = (f"{SHARED}.{name}", tensor.detach())
    for path, update in updates.items():
        for local, tensor in update.named_tensors():
            first.setdefault(id(tensor), (f"{path}.{local}", tensor.detach()))
    return dict(first.values())


def from_own(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, ModuleRecord],
    trains: Mapping[str, bool] | None = None,
) -> tuple[dict[str, Update], SharedMatrices | None]:
    """The updates by path, filled, and what they share; AdapterFileError listing all problems.

    `trains` are the shared matrices by name, and whether each trains.
    """
    by_path = modules_by_path(model)
    lost = [path for path in modules if path not in by_path]
    lost += [
        f"{path}.{name}"
        for path, record in modules.items()
        if path in by_path
        for name in record.replaced
        if not has_tensor(by_path[path], name)
    ]
    if lost:
        raise AdapterFileError(f"the adapter does not fit this model, which has no {', '.join(lost)}")
    shared = shared_matrices(tensors, trains or {})
    if shared is not None:
        shared.to(device_of(unwrapped(model)))
    updates = {path: record.build(path, by_path[path], shared) for path, record in modules.items()}
    link(updates)
    stored = _stored_names(modules, by_path, tensors)
    replaced = {full: tensor_of(by_path[path], name) for (path, name), full in stored.items()}
    refuse_unfit(tensors, own_tensors(updates, shared) | replaced)
    for path, update in updates.items():
        _fill(path, update, tensors)
        for name in modules[path].replaced:
            update.restore(name, tensors[stored[path, name]], by_path[path])
    share_ties(updates, by_path)
    return updates, shared


def _stored_names(
    modules: Mapping[str, ModuleRecord], by_path: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]
) -> dict[tuple[str, str], str]:
    """(path, name) of every replaced tensor → its name in the file; tied ones are stored once, as the first."""
    first: dict[int, str] = {}
    names = {}
    for path, record in modules.items():
        for name in record.replaced:
            full, tensor = f"{path}.{name}", tensor_of(by_path[path], name)
            tied = first.setdefault(id(tensor), full)
            names[path, name] = full if full in tensors else tied
    return names


def _fill(path: str, update: Update, tensors: Mapping[str, Tensor]) -> None:
    for part in update.parts:
        prefix = path if part == WHOLE else f"{path}.{part}"
        delta = update.delta_of(part)
        delta.fill({name: tensors[f"{prefix}.{name}"] for name, _ in delta.stored()})
    with torch.no_grad():
        for name, parameter in update.added.named_parameters():
            if f"{path}.{name}" in tensors:  # not of rows that another module holds
                parameter.copy_(tensors[f"{path}.{name}"])
