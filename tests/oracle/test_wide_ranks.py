"""A rank above a layer's width: PEFT takes it, and so does what comes from PEFT or names no layer."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

import loralab as ll
from oracle.case import Case, assert_same, output, peft_loads, theirs_saved
from oracle.module_cases import rows, sandwich
from oracle.peft_warnings import silenced
from small_models import SIZES
from toys import TOYS, Lookup, give_effect

pytestmark = silenced
SAID = "the rank is above a layer's width"


def narrow() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 20), nn.Tanh(), nn.Linear(20, 2))


def qwen2_moe() -> nn.Module:
    """Its shared_expert_gate is 1×32."""
    sizes = {"num_key_value_heads": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**SIZES, **sizes, num_experts=4, pad_token_id=0))


def first(x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input": x}


def words() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.arange(12).view(2, 6)}


IN_TWO = ["0", "2"]
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], dict[str, torch.Tensor]], dict[str, Any]]] = {
    "20→2": (narrow, lambda: first(torch.randn(3, 16)), {"target_modules": IN_TWO}),
    "20→2, DoRA": (narrow, lambda: first(torch.randn(3, 16)), {"target_modules": IN_TWO, "use_dora": True}),
    "20→2, rsLoRA": (narrow, lambda: first(torch.randn(3, 16)), {"target_modules": IN_TWO, "use_rslora": True}),
    "Qwen2-MoE's gate": (qwen2_moe, words, {"target_modules": ["q_proj", "shared_expert_gate"]}),
    "an embedding": (Lookup, lambda: {"tokens": torch.arange(8).view(2, 4)}, {"target_modules": ["inner"], "r": 20}),
    "a convolution": (sandwich(lambda: nn.Conv1d(16, 8, 3, padding=1), 1), rows, {"target_modules": ["inner"], "r": 9}),
    "an attention": (TOYS["attention"].build, rows, {"target_modules": ["inner"], "r": 20}),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_file_of_such_a_rank_is_taken_and_it_is_said(tmp_path: Path, kind: str) -> None:
    build, inputs, fields = CASES[kind]
    case = Case(build, inputs, {}, {"r": 8, **fields})
    base, theirs = theirs_saved(case, tmp_path / "theirs")
    ours, x = copy.deepcopy(base), inputs()
    adapter = ll.load(ours, tmp_path / "theirs")
    assert any(SAID in note for note in adapter.notes)
    live = output(ours, x)
    assert_same(live, output(theirs, x), unlike=output(base, x))
    ll.save(adapter, tmp_path / "ours", model=ours)
    assert_same(output(peft_loads(base, tmp_path / "ours"), x), live, unlike=output(base, x))
    ll.merge(ours)
    assert_same(output(ours, x), live, unlike=output(base, x))


@pytest.mark.parametrize("build, gate", [(narrow, "2"), (qwen2_moe, "shared_expert_gate")])
def test_all_linear_takes_such_a_layer_and_says_so(build: Callable[[], nn.Module], gate: str, tmp_path: Path) -> None:
    base = build().eval()
    model = copy.deepcopy(base)
    adapter = ll.attach(model, ll.LoRA(rank=8, targets="all-linear"))
    (note,) = (note for note in adapter.notes if SAID in note)
    assert gate in note
    give_effect(adapter)
    ll.save(adapter, tmp_path, model=model)
    assert sum(SAID in note for note in ll.load(base, tmp_path).notes) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"targets": IN_TWO},
        {"targets": ["all-linear", "2"]},
        {"targets": ["all-linear", "2.weight"]},
        {"targets": "all-linear", "rank_pattern": {"2": 4}},
        {"targets": "all-linear", "init": "pissa"},
        {"targets": "all-linear", "freeze_a": True, "nearest_step": True},
    ],
)
def test_where_the_layer_or_its_rank_is_named_it_is_an_error(fields: dict[str, Any]) -> None:
    with pytest.raises(ll.SpecError, match=r"too large for 2 \(2×20\): choose at most 2"):
        ll.attach(narrow(), ll.LoRA(**{"rank": 8, **fields}))


def test_ranks_within_the_width_are_not_spoken_of() -> None:
    adapter = ll.attach(narrow(), ll.LoRA(rank=2, targets="all-linear"))
    assert not any(SAID in note for note in adapter.notes)
