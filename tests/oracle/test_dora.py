"""DoRA against PEFT's: the same A, B and lengths compute the same, have the same gradients and merge to the same."""

import copy
import re

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import loralab as ll
from loralab.core.adapter import Adapter
from loralab.nn.dropout import quick_dropout
from oracle.case import Case, assert_same, output
from oracle.model_cases import MODELS
from oracle.module_cases import MODULES, rows, sandwich
from oracle.peft_warnings import silenced
from toys import Sandwich

pytestmark = silenced


def _square() -> nn.Module:
    """Stored transposed, with nothing in its shape to tell inputs from outputs."""
    return Sandwich(Conv1D(16, 16), lambda module, x: module(x))


TRANSPOSED = {"target_modules": ["inner"], "fan_in_fan_out": True}
IN_BOTH = {"ours": {"targets": ["inner"]}, "theirs": {"target_modules": ["inner"]}}
STRIDED = {"stride": 2, "padding": 1}
CASES: dict[str, Case] = {
    **{name: MODULES[name] for name in ("dense layers", "linear", "linear without bias", "embedding", "conv2d")},
    "conv1d of transformers": Case(lambda: _square(), rows, {"targets": ["inner"]}, TRANSPOSED),
    "conv1d": Case(sandwich(lambda: nn.Conv1d(16, 8, 3, **STRIDED), 1), rows, **IN_BOTH),
    "conv2d, strided": Case(sandwich(lambda: nn.Conv2d(16, 8, 3, **STRIDED), 2), rows, **IN_BOTH),
    "conv2d, no bias": Case(sandwich(lambda: nn.Conv2d(16, 8, 2, bias=False), 2), rows, **IN_BOTH),
    "conv3d": MODULES["conv3d"],
    "rank-stabilised": Case(
        MODULES["linear"].build,
        rows,
        {"targets": ["inner"], "rank_stabilized": True},
        {"target_modules": ["inner"], "use_rslora": True},
    ),
    **{name: MODELS[name] for name in ("gpt2, c_attn", "gpt2, feed-forward", "llama", "bert, with its head")},
}


def pair(case: Case) -> tuple[nn.Module, Adapter, nn.Module, PeftModel]:
    """(the base, our adapter on a copy of it, that copy, PEFT's), both adapters with the same noise in them."""
    base = case.build().eval()
    config = LoraConfig(r=2, lora_alpha=5, use_dora=True, **{**case.common, **copy.deepcopy(dict(case.theirs or {}))})
    theirs = get_peft_model(copy.deepcopy(base), config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    ours = copy.deepcopy(base)
    adapter = ll.attach(ours, ll.LoRA(**{"rank": 2, "alpha": 5.0, "magnitude": True, **case.common, **case.ours}))
    adapter.load_state_dict({name: parameter.detach() for name, parameter in theirs_by_our_names(theirs).items()})
    return base, adapter, ours, theirs


def theirs_by_our_names(theirs: PeftModel) -> dict[str, Tensor]:
    """What trains in PEFT's model, by the names it has here."""
    named = {}
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            bare = name.removeprefix("base_model.model.").replace("lora_embedding_", "lora_")
            bare = bare.replace(".modules_to_save.default", "")
            named[re.sub(r"(lora_[AB]|lora_magnitude_vector)\.default(\.weight)?$", r"\1", bare)] = parameter
    return named


def loss(model: nn.Module, x: dict[str, Tensor]) -> Tensor:
    """The mean square of the output."""
    result = model(**x)
    return (result if isinstance(result, Tensor) else result["logits"]).square().mean()


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_pefts(name: str) -> None:
    case = CASES[name]
    base, adapter, ours, theirs = pair(case)
    x = case.inputs()
    assert_same(output(ours, x), output(theirs, x), unlike=output(base, x))
    for model in (ours, theirs):
        loss(model, x).backward()
    expected = {key: parameter.grad for key, parameter in theirs_by_our_names(theirs).items()}
    for key, parameter in adapter.named_parameters():
        scale = float(expected[key].abs().max())
        assert scale > 0, key
        torch.testing.assert_close(parameter.grad, expected[key], atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_merged_weights_are_pefts(name: str) -> None:
    case = CASES[name]
    base, _, ours, theirs = pair(case)
    x = case.inputs()
    live = output(ours, x)
    ll.merge(ours)
    merged = theirs.merge_and_unload()
    assert_same(output(ours, x), live, unlike=output(base, x))
    assert_same(output(ours, x), output(merged, x), unlike=output(base, x))


@pytest.mark.parametrize("name", CASES)
def test_lengths_start_as_pefts(name: str) -> None:
    case = CASES[name]
    base = case.build().eval()
    config = LoraConfig(r=2, use_dora=True, **{**case.common, **copy.deepcopy(dict(case.theirs or {}))})
    theirs = theirs_by_our_names(get_peft_model(copy.deepcopy(base), config))
    adapter = ll.attach(copy.deepcopy(base), ll.LoRA(**{"rank": 2, "magnitude": True, **case.common, **case.ours}))
    lengths = {key: parameter for key, parameter in adapter.named_parameters() if key.endswith("magnitude_vector")}
    assert lengths
    for key, parameter in lengths.items():
        torch.testing.assert_close(parameter, theirs[key], atol=1e-6, rtol=1e-6)


def test_dropout_is_where_pefts_is() -> None:
    """With the same random state both drop the same entries of the layer's input."""
    case = MODULES["linear"]
    base = case.build()
    config = LoraConfig(r=2, lora_alpha=5, use_dora=True, lora_dropout=0.5, target_modules=["inner"])
    theirs = get_peft_model(copy.deepcopy(base), config).train()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    ours = copy.deepcopy(base).train()
    spec = ll.LoRA(rank=2, alpha=5.0, magnitude=True, dropout=0.5, targets=["inner"])
    ll.attach(ours, spec).load_state_dict({key: p.detach() for key, p in theirs_by_our_names(theirs).items()})
    x, outputs = rows(), []
    with quick_dropout(theirs):
        for model in (ours, theirs):
            torch.manual_seed(4)
            outputs.append(output(model, x))
    assert_same(outputs[0], outputs[1], unlike=output(ours.eval(), x))
