"""Choosing a device."""

import pytest
import torch

from loralab.errors import SpecError
from loralab.machine import choose_device


def test_auto_is_a_device_that_works() -> None:
    assert torch.zeros(1, device=choose_device("auto")).item() == 0


def test_the_cpu_can_be_asked_for() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *(
            (name, "is not on this machine, or not in its torch .*: there is cpu")
            for name in ("cuda:99", "CUDA:99", "hpu")
        ),
        *(
            (name, "is no device's name: write auto, cpu, cuda ")
            for name in ("gpu", "", "0", "mkldnn", "privateuseone")
        ),
        ("meta", "holds no numbers"),
    ],
)
def test_a_device_that_is_not_there_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(SpecError, match=rf"^device '{name}' {message}[^\n]*$"):
        choose_device(name)
