"""One seed, one machine: the same bytes, whatever else is different that should make no difference."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import loralab as ll
from loralab.experiments.comparison.cells import cells_of, settings_of
from loralab.experiments.comparison.compare import compare
from loralab.experiments.comparison.config import CompareConfig
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
def test_a_cell_of_a_comparison_is_the_run_alone(configured: Run, tmp_path: Path) -> None:
    """There a process of its own, after another's training; here this process."""
    flags = {each.name for each in fields(CompareConfig) if each.init}
    shared = {each.name: getattr(configured(), each.name) for each in fields(ll.TrainConfig) if each.name in flags}
    chosen = {"out": str(tmp_path / "compared"), "methods": ("adapter-h", "lora"), "seeds": (3,), "threads": 1}
    comparison = CompareConfig(**shared | chosen)
    compare(comparison)
    for cell in cells_of(comparison, settings_of(comparison)):
        alone = adapter(replace(cell.config, out=str(tmp_path / "alone" / cell.name)))
        assert alone == (cell.folder / "adapter_model.safetensors").read_bytes()


@pytest.mark.slow
def test_what_was_used_before_in_the_process_makes_no_difference(configured: Run) -> None:
    first = adapter(configured("first"))
    torch.manual_seed(99)
    torch.rand(7)
    ll.train(configured("between", seed=5, rank=4))
    assert adapter(configured("second")) == first
