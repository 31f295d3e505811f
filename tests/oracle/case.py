"""One thing to hold against PEFT: a model, what it eats, and the same adapter in our words and in PEFT's.

Also the two sides as functions: an adapter with an effect, made by loralab or by PEFT, saved into a folder.
"""

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn

import loralab as ll
from toys import give_effect

TENSORS = "adapter_model.safetensors"
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    """`ours` are fields of ll.LoRA; `theirs` fields of LoraConfig, None for what PEFT cannot say by itself."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Tensor]]
    ours: Mapping[str, Any]
    theirs: Mapping[str, Any] | None
    common: Mapping[str, Any] = field(default_factory=dict)
    """Fields of both with the same meaning in both: `bias`, `modules_to_save`, …"""
    peft_merges: bool = True
    """Whether PEFT's own merge computes what PEFT computes live."""

    def make(self) -> tuple[nn.Module, dict[str, Tensor]]:
        """The model, in evaluation mode, and an input."""
        return self.build().eval(), self.inputs()


def output(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the model computes, as one tensor."""
    with torch.no_grad():
        result = model(**inputs)
    if isinstance(result, Tensor):
        return result
    parts = [result[name] for name in ("logits", "pred_boxes", "last_hidden_state") if name in result]
    return torch.cat([part.flatten() for part in parts])


def ours_saved(case: Case, folder: Path, **changes: Any) -> tuple[nn.Module, nn.Module]:
    """(the base, the model with an adapter of ours that has an effect and was saved into the folder)."""
    base = case.build().eval()
    model = copy.deepcopy(base)
    spec = {"rank": 2, "alpha": 5.0, **case.common, **case.ours, **changes}
    adapter = ll.attach(model, ll.LoRA(**spec))
    give_effect(adapter)
    ll.save(adapter, folder, model=model)
    return base, model


def theirs_saved(case: Case, folder: Path, **changes: Any) -> tuple[nn.Module, PeftModel]:
    """(the base, PEFT's model with an adapter that has an effect and was saved into the folder)."""
    base = case.build().eval()
    model = peft_model(base, **{**case.common, **(case.theirs or {}), **changes})
    model.save_pretrained(folder)
    return base, model


def peft_model(base: nn.Module, **fields: Any) -> PeftModel:
    """PEFT's own adapter on a copy of the base, every trained tensor with noise in it."""
    model = get_peft_model(copy.deepcopy(base), LoraConfig(**copy.deepcopy({"r": 2, "lora_alpha": 5, **fields}))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def peft_loads(base: nn.Module, folder: Path) -> PeftModel:
    """PEFT's model from the folder. Missing keys would be a warning of PEFT's, which is an error here."""
    return PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()


def keys(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of the adapter's own tensors in a folder.

    PEFT writes more: with bias="all" the biases of modules saved in full twice more, the untouched one and the trained
    one, and beside an adapted embedding a copy of the base's weight.
    """
    tensors = load_file(folder / TENSORS)
    more = re.compile(r"\.(original_module|modules_to_save)\.|\.base_layer\.weight$")
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if not more.search(name)}


def assert_same(actual: Tensor, expected: Tensor, unlike: Tensor) -> None:
    """Equal to the tolerance, and different from the base by far more, so that no test passes on a no-op."""
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=TOLERANCE)
    assert (expected - unlike).abs().max() > 1e-3
