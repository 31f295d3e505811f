"""Which biases of a model train, as replacements: beside low-rank updates (`LoRA(bias=…)`), or alone (`BitFit`)."""

from collections.abc import Mapping, Sequence

from torch import nn

from loralab.core.names import modules_by_path
from loralab.core.updates.update import Update


def add_biases(model: nn.Module, updates: dict[str, Update], which: str, heads: Sequence[str]) -> None:
    """Let biases train: `none`, those of adapted modules (`lora_only`), or `all` outside the heads."""
    if which == "none":
        return
    by_path = modules_by_path(model)
    for path, module in by_path.items():
        bias = module._parameters.get("bias")
        in_head = any(path == head or path.startswith(head + ".") for head in heads)
        owner, name = _reader(by_path, path, "bias")
        if bias is None or in_head or (which == "lora_only" and owner not in updates):
            continue
        updates.setdefault(owner, Update({})).replace(name, bias)


def bias_updates(model: nn.Module, heads: Sequence[str]) -> dict[str, Update]:
    """Every bias vector outside the heads, also those with longer names (`in_proj_bias`, `q_bias`), to be trained."""
    by_path, updates = modules_by_path(model), dict[str, Update]()
    for path, module in by_path.items():
        if any(path == head or path.startswith(head + ".") for head in heads):
            continue
        for local, parameter in module._parameters.items():
            if parameter is not None and parameter.dim() == 1 and (local == "bias" or local.endswith("_bias")):
                owner, name = _reader(by_path, path, local)
                updates.setdefault(owner, Update({})).replace(name, parameter)
    return updates


def _reader(by_path: Mapping[str, nn.Module], path: str, local: str) -> tuple[str, str]:
    """(the module that reads this module's bias, its name there): an attention reads its out_proj's by itself."""
    parent, _, leaf = path.rpartition(".")
    if leaf == "out_proj" and isinstance(by_path.get(parent), nn.MultiheadAttention):
        return parent, f"out_proj.{local}"
    return path, local
