"""Adapters that PEFT has no way to express: the same folder shape, with the adapter's own tensor names.

adapter_config.json then has a `peft_type` that PEFT does not know and the reasons, so that PEFT refuses the folder
instead of computing something else.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from loralab.core.names import modules_by_path
from loralab.core.update import WHOLE, Update, tensor_of
from loralab.errors import AdapterFileError
from loralab.formats.peft_config import OWN_TYPE
from loralab.formats.peft_layout import fill
from loralab.formats.structure import ModuleRecord, has_tensor
from loralab.formats.tensor_checks import refuse_unfit


def own_config(reasons: Sequence[str], base_model: str | None) -> dict[str, Any]:
    """The content of adapter_config.json."""
    return {"peft_type": OWN_TYPE, "base_model_name_or_path": base_model, "why_not_peft": list(reasons)}


def own_tensors(updates: Mapping[str, Update]) -> dict[str, Tensor]:
    """`<module path>.<lora_A | q.lora_B | bias | …>` → tensor, as `Adapter.named_tensors` has them."""
    return {
        f"{path}.{local}": tensor.detach()
        for path, update in updates.items()
        for local, tensor in update.named_tensors()
    }


def from_own(model: nn.Module, tensors: Mapping[str, Tensor], modules: Mapping[str, ModuleRecord]) -> dict[str, Update]:
    """The updates by path, filled; AdapterFileError listing all problems."""
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
    updates = {path: record.build(path, by_path[path]) for path, record in modules.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in own_tensors(updates).items()}
    for path, record in modules.items():
        expected |= {f"{path}.{name}": tuple(tensor_of(by_path[path], name).shape) for name in record.replaced}
    refuse_unfit(tensors, expected)
    for path, update in updates.items():
        _fill(path, update, tensors)
        for name in modules[path].replaced:
            update.replace(name, tensors[f"{path}.{name}"].to(tensor_of(by_path[path], name).device))
    return updates


def _fill(path: str, update: Update, tensors: Mapping[str, Tensor]) -> None:
    for part in update.parts:
        prefix = path if part == WHOLE else f"{path}.{part}"
        fill(update.factors_of(part), tensors[f"{prefix}.lora_A"], tensors[f"{prefix}.lora_B"])
