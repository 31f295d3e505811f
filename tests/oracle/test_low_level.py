"""PEFT without its PeftModel: adapters injected into a bare model, state dicts without files, names of targets."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

import loralab as ll
from oracle.case import TENSORS, assert_same, ours_saved, output
from oracle.model_cases import bert, detr, gpt2, llama, t5, vit
from oracle.module_cases import MODULES
from oracle.peft_warnings import silenced

pytestmark = silenced
CASE = MODULES["dense layers"]


def injected(base: nn.Module) -> nn.Module:
    """A bare model with PEFT's layers in it, which have an effect."""
    model = inject_adapter_in_model(LoraConfig(r=2, lora_alpha=5, **(CASE.theirs or {})), copy.deepcopy(base)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    return model


def test_a_state_dict_without_pefts_prefix(tmp_path: Path) -> None:
    base, x = CASE.make()
    theirs = injected(base)
    state = get_peft_model_state_dict(theirs)
    assert "lin0.lora_A.weight" in state
    save_file(state, tmp_path / TENSORS)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 5, "target_modules": ["lin0", "lin1"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    ours = copy.deepcopy(base)
    ll.load(ours, tmp_path)
    assert_same(output(ours, x), output(theirs, x), unlike=output(base, x))


def test_our_tensors_fit_an_injected_model(tmp_path: Path) -> None:
    base, ours = ours_saved(CASE, tmp_path)
    theirs = injected(base)
    state = {name.removeprefix("base_model.model."): tensor for name, tensor in load_file(tmp_path / TENSORS).items()}
    found = set_peft_model_state_dict(theirs, state)
    assert not found.unexpected_keys
    x = CASE.inputs()
    assert_same(output(theirs, x), output(ours, x), unlike=output(base, x))


TARGETS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "endings": (llama, {"targets": ["q_proj", "up_proj"]}, {"target_modules": ["q_proj", "up_proj"]}),
    "a path": (llama, {"targets": ["layers.1.mlp.up_proj"]}, {"target_modules": ["layers.1.mlp.up_proj"]}),
    "an ending that is no ending": (t5, {"targets": ["q", "o"]}, {"target_modules": ["q", "o"]}),
    "an expression": (bert, {"targets": r".*layer\.[01]\.attention\.self\.(key|value)"},
                      {"target_modules": r".*layer\.[01]\.attention\.self\.(key|value)"}),
    "all-linear of a causal model": (llama, {"targets": "all-linear"}, {"target_modules": "all-linear"}),
    "all-linear of fused layers": (gpt2, {"targets": "all-linear"},
                                   {"target_modules": "all-linear", "fan_in_fan_out": True}),
    "all-linear of a classifier": (bert, {"targets": "all-linear", "modules_to_save": ["classifier"]},
                                   {"target_modules": "all-linear", "task_type": "SEQ_CLS"}),
    "without some": (vit, {"targets": ["q_proj", "fc1"], "exclude": ["layers.0.mlp.fc1"]},
                     {"target_modules": ["q_proj", "fc1"], "exclude_modules": ["layers.0.mlp.fc1"]}),
    "one of the blocks": (llama, {"targets": ["q_proj"], "layers": [1]},
                          {"target_modules": ["q_proj"], "layers_to_transform": 1}),
    "both sides of a detector": (detr, {"targets": ["v_proj", "o_proj"]}, {"target_modules": ["v_proj", "o_proj"]}),
}  # fmt: skip


@pytest.mark.parametrize("case", TARGETS)
def test_targets_are_those_that_peft_finds(case: str) -> None:
    build, ours, theirs = TARGETS[case]
    model = build()
    found = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, **theirs)).base_model.targeted_module_names
    assert sorted(ll.attach(model, ll.LoRA(rank=2, **ours)).matched) == sorted(found)
