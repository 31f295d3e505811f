"""One seed, one machine: the same bytes, whatever else is different that should make no difference."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import loralab as ll
from training.conftest import Run


@pytest.fixture
def threads() -> Iterator[None]:
    """As many threads afterwards as before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def adapter(config: Any) -> bytes:
    ll.train(config)
    return (Path(config.out) / "adapter_model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(configured: Run) -> None:
    first = adapter(configured("first"))
    assert adapter(configured("second")) == first
    assert adapter(configured("other", seed=1)) != first


@pytest.mark.slow
def test_one_thread_and_two_end_within_rounding(configured: Run, threads: None) -> None:
    """Sums are parted among threads: bits may differ where a layer is large, values hardly."""
    for number in (1, 2):
        adapter(configured(f"threads-{number}", threads=number))
    one, two = (load_file(Path(configured(f"threads-{number}").out) / "adapter_model.safetensors") for number in (1, 2))
    for key, values in one.items():
        torch.testing.assert_close(two[key], values, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_what_was_used_before_in_the_process_makes_no_difference(configured: Run) -> None:
    first = adapter(configured("first"))
    torch.manual_seed(99)
    torch.rand(7)
    ll.train(configured("between", seed=5, rank=4))
    assert adapter(configured("second")) == first
