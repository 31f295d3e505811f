"""The bytes that `plan` says an adapter will take are those that its tensors take on disk, whatever the method."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loralab as ll
from loralab.methods.registry import specification
from loralab.methods.settings import MethodSettings
from loralab.methods.table import names_sized_by
from loralab.models.load import load_model
from sizes import that_count
from tiny import write_llama

OTHERS = ("full", "grass", "prefix-layer", "adapter-h", "adamix-adapter")


@pytest.mark.parametrize("method", [*names_sized_by("rank"), *OTHERS])
def test_an_adapter_is_as_large_as_planned(tmp_path: Path, method: str) -> None:
    folder, settings = write_llama(tmp_path / "llama"), that_count({"method": method, "rank": 4, "size": 4})
    planned = ll.plan(ll.PlanConfig(model=str(folder), **settings)).adapter_bytes
    model = load_model(str(folder), dtype="float32", device="cpu").model
    torch.manual_seed(0)
    ll.save(ll.attach(model, specification(MethodSettings(**settings))), tmp_path / "adapter", model=model)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert planned == sum(each.numel() * 4 for each in tensors.values())
