"""How factors start: the distributions that PEFT's own tests assert, by Kolmogorov-Smirnov tests, and PEFT's values."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy import stats
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import loralab as ll

WIDE = 400
LAYERS = {
    "linear": lambda: nn.Linear(WIDE, WIDE),
    "conv1d of transformers": lambda: Conv1D(WIDE, WIDE),
    "conv2d": lambda: nn.Conv2d(40, WIDE, 3),
}
LEAST = 1e-3
"""The p-value under which a distribution is taken for another one; seeds are fixed."""


def fresh(layer: nn.Module, **fields: object) -> tuple[Tensor, Tensor]:
    """(A, B) of a fresh adapter of rank 20 on one layer."""
    adapter = ll.attach(nn.ModuleDict({"layer": layer}), ll.LoRA(rank=20, targets=["layer"], **fields))
    A, B = adapter.parameters()
    return A.detach().flatten(), B.detach().flatten()


@pytest.mark.parametrize("kind", LAYERS)
def test_kaiming_is_uniform_as_pefts(kind: str) -> None:
    layer = LAYERS[kind]()
    A, B = fresh(layer)
    bound = 1 / math.sqrt(A.numel() / 20)
    assert stats.kstest(A, stats.uniform(-bound, 2 * bound).cdf).pvalue > LEAST
    assert not B.any()
    config = LoraConfig(r=20, target_modules=["layer"], fan_in_fan_out=isinstance(layer, Conv1D))
    theirs = get_peft_model(nn.ModuleDict({"layer": layer}), config)
    A_peft = next(p for name, p in theirs.named_parameters() if "lora_A" in name).detach().flatten()
    assert stats.ks_2samp(A, A_peft).pvalue > LEAST


@pytest.mark.parametrize("kind", LAYERS)
def test_gaussian_has_the_deviation_of_one_over_the_rank(kind: str) -> None:
    A, B = fresh(LAYERS[kind](), init="gaussian")
    assert stats.kstest(A, stats.norm(0, 1 / 20).cdf).pvalue > LEAST
    assert stats.kstest(A, stats.norm(0, 1 / 16).cdf).pvalue < LEAST
    assert not B.any()


def test_orthogonal_has_orthonormal_rows() -> None:
    A, B = fresh(nn.Linear(WIDE, WIDE), init="orthogonal")
    rows = A.view(20, WIDE)
    torch.testing.assert_close(rows @ rows.T, torch.eye(20), atol=1e-5, rtol=0)
    assert not B.any()


def test_pefts_orthogonal_is_another_start_that_is_the_base_too() -> None:
    config = LoraConfig(r=20, target_modules=["layer"], init_lora_weights="orthogonal")
    theirs = get_peft_model(nn.ModuleDict({"layer": nn.Linear(WIDE, WIDE)}), config)
    A, B = (parameter.detach() for name, parameter in theirs.named_parameters() if "lora_" in name)
    assert A.any()
    assert B.any()
    assert (B @ A).abs().max() < 1e-5 * B.norm() * A.norm()


@pytest.mark.parametrize("init", ["kaiming", "gaussian", "orthogonal"])
def test_an_embedding_starts_with_a_normal_b(init: str) -> None:
    A, B = fresh(nn.Embedding(WIDE, WIDE), init=init)
    assert not A.any()
    assert stats.kstest(B, stats.norm(0, 1).cdf).pvalue > LEAST


def test_seeds_decide_and_two_adapters_differ() -> None:
    torch.manual_seed(3)
    A, _ = fresh(nn.Linear(WIDE, WIDE))
    other, _ = fresh(nn.Linear(WIDE, WIDE))
    torch.manual_seed(3)
    again, _ = fresh(nn.Linear(WIDE, WIDE))
    assert torch.equal(A, again)
    assert not torch.equal(A, other)
