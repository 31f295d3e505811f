"""LoRA-FA's later form against PEFT's optimizer: the same A and B give Adam the same gradient."""

import copy

import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_lorafa_optimizer
from torch import nn

import loralab as ll
from oracle.peft_warnings import silenced

pytestmark = silenced

RANK, ALPHA, BETA1 = 4, 6, 0.9
ROUNDED = 0.02
"""PEFT multiplies in bfloat16 where the machine has it."""


def test_the_turned_gradient_is_what_their_adam_averages() -> None:
    base, x = nn.Sequential(nn.Linear(24, 12), nn.Tanh()), torch.randn(9, 24)
    theirs = get_peft_model(copy.deepcopy(base), LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["0"]))
    A, B = (tensor for name, tensor in theirs.named_parameters() if "lora_" in name)
    nn.init.normal_(B)
    method = ll.LoRA(RANK, float(ALPHA), targets=["0"], freeze_a=True, nearest_step=True)
    adapter = ll.attach(base, method)
    adapter.load_state_dict({"0.lora_A": A.detach().clone(), "0.lora_B": B.detach().clone()})
    optimizer = create_lorafa_optimizer(theirs, RANK, ALPHA, lr=1e-3)

    theirs(x).square().sum().backward()
    optimizer.step()
    base(x).square().sum().backward()

    (averaged,) = (state["exp_avg_B"] / (1 - BETA1) for state in optimizer.state.values() if state)
    (turned,) = (parameter.grad for parameter in adapter.parameters())
    assert (turned - averaged).norm() < ROUNDED * averaged.norm()
    assert (turned - B.grad).norm() > 0.5 * B.grad.norm()  # it was turned at all
