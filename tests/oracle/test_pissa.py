"""PiSSA against PEFT's: the same principal part, the same residual, and the same function after the same steps.

PEFT puts the residual into the base; here the base stays and the update is s·(B·A − B₀·A₀).
"""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import loralab as ll
from loralab.core.adapter import Adapter
from loralab.core.updates.update import WHOLE
from oracle.case import assert_same, output
from oracle.model_cases import gpt2, llama, tokens
from oracle.module_cases import MLP, rows
from oracle.peft_warnings import silenced
from toys import Sandwich

pytestmark = silenced


def _square() -> nn.Module:
    return Sandwich(Conv1D(16, 16), lambda module, x: module(x))


BUILD = {"dense layers": (MLP, rows), "conv1d": (_square, rows), "gpt2": (gpt2, tokens), "llama": (llama, tokens)}
TARGETS: dict[str, list[str]] = {
    "dense layers": ["lin0", "lin1"],
    "conv1d": ["inner"],
    "gpt2": ["c_attn", "c_fc"],
    "llama": ["q_proj", "v_proj", "down_proj"],
}
FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "whole": ({"init": "pissa"}, {"init_lora_weights": "pissa"}),
    "by iterations": ({"init": "pissa-64"}, {"init_lora_weights": "pissa_niter_64"}),
    "rank-stabilised": (
        {"init": "pissa", "rank_stabilized": True},
        {"init_lora_weights": "pissa", "use_rslora": True},
    ),
    "patterns": (
        {"init": "pissa", "rank_pattern": {"lin1": 4}, "alpha_pattern": {"lin0": 9}},
        {"init_lora_weights": "pissa", "rank_pattern": {"lin1": 4}, "alpha_pattern": {"lin0": 9}},
    ),
}
PAIRS = [*((model, "whole") for model in BUILD), *(("dense layers", fields) for fields in FIELDS if fields != "whole")]
every_pair = pytest.mark.parametrize("model, fields", PAIRS)
CLOSE = {"by iterations": 1e-4}


def both(model: str, fields: str) -> tuple[nn.Module, Adapter, nn.Module, PeftModel]:
    """(the base, our adapter on a copy of it, that copy, PEFT's)."""
    ours, theirs = FIELDS[fields]
    base = BUILD[model][0]().eval()
    transposed = {"fan_in_fan_out": True} if model in ("conv1d", "gpt2") else {}
    config = LoraConfig(r=3, lora_alpha=5, target_modules=TARGETS[model], **theirs, **transposed)
    peft = get_peft_model(copy.deepcopy(base), config).eval()
    own = copy.deepcopy(base)
    adapter = ll.attach(own, ll.LoRA(**{"rank": 3, "alpha": 5.0, "targets": TARGETS[model], **ours}))
    return base, adapter, own, peft


@every_pair
def test_principal_parts_and_residuals_are_pefts(model: str, fields: str) -> None:
    base, adapter, _, peft = both(model, fields)
    most = CLOSE.get(fields, 1e-5)
    for path, update in adapter.updates.items():
        layer = peft.base_model.model.get_submodule(path)
        A, B = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
        state, s = adapter.state_dict(), update.delta_of(WHOLE).recipe.scale
        assert s == pytest.approx(layer.scaling["default"])
        ours_A, ours_B = state[f"{path}.start_A"], state[f"{path}.start_B"]
        W, residual = base.get_submodule(path).weight.detach(), layer.base_layer.weight.detach()
        if isinstance(base.get_submodule(path), Conv1D):
            W, residual = W.T, residual.T
        near = {"atol": most * float(W.abs().max()), "rtol": 0}
        torch.testing.assert_close(ours_B @ ours_A, B @ A, **near)
        torch.testing.assert_close(W - s * ours_B @ ours_A, residual, **near)
        torch.testing.assert_close(ours_A.norm(dim=1), A.norm(dim=1), atol=10 * most, rtol=0)
        torch.testing.assert_close(ours_B.norm(dim=0), B.norm(dim=0), atol=10 * most, rtol=0)
        assert (residual - W).norm() > 0.1 * W.norm()


@every_pair
def test_after_the_same_steps_the_function_is_pefts(model: str, fields: str) -> None:
    """Singular vectors may have either sign; gradient descent does the same to both."""
    base, _, own, peft = both(model, fields)
    x = BUILD[model][1]()
    for _ in range(3):
        for network in (own, peft):
            descend(network, x)
    most = CLOSE.get(fields, 1e-5)
    torch.testing.assert_close(output(own, x), output(peft, x), atol=most, rtol=most)
    assert (output(own, x) - output(base, x)).abs().max() > 1e-2
    with ll.disabled(own):
        assert torch.equal(output(own, x), output(base, x))


def test_dora_on_a_principal_start_has_lengths_of_the_whole_weight() -> None:
    """PEFT measures W_res + s·B₀·A₀, which is W."""
    base = MLP().eval()
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["lin0", "lin1"], init_lora_weights="pissa", use_dora=True)
    peft = get_peft_model(copy.deepcopy(base), config).eval()
    own = copy.deepcopy(base)
    adapter = ll.attach(own, ll.LoRA(rank=3, alpha=5.0, targets=["lin0", "lin1"], init="pissa", magnitude=True))
    for path in ("lin0", "lin1"):
        theirs = peft.base_model.model.get_submodule(path).lora_magnitude_vector["default"].weight
        ours = adapter.state_dict()[f"{path}.lora_magnitude_vector"]
        torch.testing.assert_close(ours, theirs.detach(), atol=1e-5, rtol=1e-5)
    x = rows()
    for _ in range(3):
        for network in (own, peft):
            descend(network, x)
    assert_same(output(own, x), output(peft, x), unlike=output(base, x))


def descend(model: nn.Module, x: dict[str, Tensor]) -> None:
    """One step of length 0.3 down the mean square of the output."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    result = model(**x)
    loss = (result if isinstance(result, Tensor) else result["logits"]).square().mean()
    gradients = torch.autograd.grad(loss, trained)
    length = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    with torch.no_grad():
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.sub_(0.3 / length * gradient)
