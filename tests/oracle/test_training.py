"""Trained from the same start, both end at the same place: the gradients are the same, not the outputs alone."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import loralab as ll
from oracle.case import Case, assert_same, output, theirs_saved
from oracle.model_cases import MODELS
from oracle.module_cases import MODULES
from oracle.peft_warnings import silenced
from oracle.setting_cases import SETTINGS

pytestmark = silenced
CHOSEN = [
    "gpt2, c_attn", "bert, with its head", "llama", "mixtral, experts and attention", "vit, with its head",
    "dense layers", "conv1d of transformers", "embedding", "conv2d, padding by name", "conv3d",
    "both patterns, rank-stabilised", "all biases of every kind", "a head of two layers and all biases",
]  # fmt: skip


@pytest.mark.parametrize("name", CHOSEN)
def test_three_steps_of_gradient_descent(tmp_path: Path, name: str) -> None:
    case: Case = (MODELS | MODULES | SETTINGS)[name]
    base, theirs = theirs_saved(case, tmp_path / "start")
    ours = copy.deepcopy(base)
    ll.load(ours, tmp_path / "start")
    x = case.inputs()
    before = output(ours, x)
    for _ in range(3):
        for model in (ours, theirs):
            descend(model, x)
    assert_same(output(ours, x), output(theirs, x), unlike=before)


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
