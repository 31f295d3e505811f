"""What stops a run."""

import pytest
import torch
from torch import nn

import loralab as ll
from loralab.training.check import every_parameter_has_a_gradient, step_is_finite
from loralab.training.data import StepData


class HalfUsed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


def test_a_tensor_that_got_no_gradient_is_named() -> None:
    model = HalfUsed()
    adapter = ll.attach(model, ll.LoRA(rank=2, targets=["used", "idle"]))
    model(torch.randn(3, 4)).sum().backward()
    with pytest.raises(ll.TrainingError, match=r"^2 of the adapter's tensors.*idle\.lora_A, idle\.lora_B"):
        every_parameter_has_a_gradient(adapter)


def test_a_zero_gradient_of_A_is_right_at_the_first_step_and_one_of_B_is_not() -> None:
    model = HalfUsed()
    adapter = ll.attach(model, ll.LoRA(rank=2, targets="used"))
    model(torch.randn(3, 4)).sum().backward()
    assert not dict(adapter.named_parameters())["used.lora_A"].grad.any()
    every_parameter_has_a_gradient(adapter)
    dict(adapter.named_parameters())["used.lora_B"].grad.zero_()
    with pytest.raises(ll.TrainingError, match=r"used\.lora_B"):
        every_parameter_has_a_gradient(adapter)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_step_and_its_examples(loss: float) -> None:
    with pytest.raises(ll.TrainingError, match=r"loss of step 7.*examples 4, 2, 9"):
        step_is_finite(loss, 1.0, 7, StepData([], [[4, 2], [9]]))
    with pytest.raises(ll.TrainingError, match=r"gradient of step 7"):
        step_is_finite(1.0, loss, 7, StepData([], [[1]]))
    step_is_finite(1.0, 1.0, 7, StepData([], [[4, 2], [9]]))
