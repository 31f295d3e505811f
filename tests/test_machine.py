"""Choosing a device."""

import pytest
import torch

from loralab.errors import SpecError
from loralab.machine import choose_device


def test_auto_is_a_device_that_works() -> None:
    assert torch.zeros(1, device=choose_device("auto")).item() == 0


def test_the_cpu_can_be_asked_for() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(SpecError, match=rf"device '{name}' cannot be used: .*; try auto or cpu"):
        choose_device(name)
