"""Every fast path against the plain one, in every family of the documentation's table."""

import runpy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loralab.core.adapter import Adapter
from loralab.core.attach import attach
from loralab.methods.lora import LoRA
from loralab.models.checkpointing import compute_blocks_again
from loralab.models.fast.attention import short_sequence_attention
from loralab.models.fast.lean import Leaves, lean_leaves
from toys import give_effect

PATHS = runpy.run_path(str(Path(__file__).resolve().parents[3] / "docs" / "fast_paths.py"))
FAMILIES: list[str] = list(PATHS["FAMILIES"])


def build(family: str) -> Any:
    return PATHS["build"](family)


def outputs(model: Any) -> Tensor:
    """Of a batch that is the same each time; what dropout draws is too."""
    logits: Tensor = model(**PATHS["inputs_of"](model)).logits
    return logits


def gradients(model: Any, adapter: Adapter) -> list[Tensor]:
    trained = list(adapter.parameters())
    return list(torch.autograd.grad(outputs(model).square().mean(), trained))


@contextmanager
def fast(model: nn.Module, recompute: bool) -> Iterator[Leaves]:
    with ExitStack() as stack:
        stack.enter_context(short_sequence_attention(model))
        yield stack.enter_context(lean_leaves(model, recompute_gates=recompute))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapted_model_in_training_has_the_same_gradients(family: str) -> None:
    model = build(family)
    adapter = attach(model, LoRA(rank=2, targets="all-linear", dropout=0.2))
    give_effect(adapter)
    plain = gradients(model.train(), adapter)
    for recompute in (False, True):
        with fast(model, recompute):
            torch.testing.assert_close(gradients(model, adapter), plain, rtol=1e-5, atol=1e-5)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("family", ["Gemma 3", "GPT-2", "T5 v1.1"])
def test_blocks_that_are_computed_again_have_the_same_gradients(family: str) -> None:
    model = build(family)
    adapter = attach(model, LoRA(rank=2, targets="q,v", dropout=0.2))
    give_effect(adapter)
    plain = gradients(model.train(), adapter)
    compute_blocks_again(model)
    with fast(model, recompute=True):
        torch.testing.assert_close(gradients(model, adapter), plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_it_is_as_near_to_float32_as_the_plain_one(family: str) -> None:
    model = build(family).to(torch.bfloat16)
    with torch.no_grad():
        plain = outputs(model)
        with fast(model, recompute=False):
            found = outputs(model)
        exact = outputs(model.float()) if model.main_input_name == "input_ids" else plain.float()
    off, most = (found - exact).norm(), (plain - exact).norm()
    assert off <= 1.2 * most + 1e-3 * exact.norm()


@pytest.mark.parametrize("family", ["Llama", "Gemma", "T5"])
def test_norms_that_train_are_left_as_they_are(family: str) -> None:
    model = build(family)
    with lean_leaves(model) as leaves:
        assert leaves.norms
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("norm" in name.lower())
    with lean_leaves(model) as leaves:
        assert not leaves.norms
