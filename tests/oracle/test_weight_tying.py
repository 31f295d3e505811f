"""PEFT's `ensure_weight_tying`: taken where it changes nothing, refused where tied modules would have one adapter."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

import loralab as ll
from loralab.formats.convert import convert
from oracle.case import Case, assert_same, output, peft_loads, theirs_saved
from oracle.model_cases import gpt2, llama, t5, tokens
from oracle.module_cases import MLP, rows
from oracle.peft_warnings import silenced
from small_models import SIZES

pytestmark = [
    *silenced,
    pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`:UserWarning"),
    pytest.mark.filterwarnings("ignore:ensure_weight_tying=True but the model does not have tied weights:UserWarning"),
]
ATTENTION = {"target_modules": ["q_proj", "v_proj"]}


def tied_llama() -> nn.Module:
    return AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, tie_word_embeddings=True))


def both() -> dict[str, torch.Tensor]:
    words = torch.arange(12).view(2, 6)
    return {"input_ids": words, "decoder_input_ids": words}


NOTHING: dict[str, tuple[Callable[[], nn.Module], Callable[[], dict[str, torch.Tensor]], dict[str, Any]]] = {
    "a tied model, attention": (tied_llama, tokens, ATTENTION),
    "GPT-2, attention": (gpt2, tokens, {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "T5, attention": (t5, both, {"target_modules": ["q", "v"]}),
    "a tied model, all-linear": (tied_llama, tokens, {"target_modules": "all-linear"}),
    "a model without ties": (MLP, rows, {"target_modules": ["lin0"]}),
    "a model without ties, its head": (MLP, rows, {"target_modules": ["lin0"], "modules_to_save": ["head"]}),
    "an untied model, both ends": (llama, tokens, {"target_modules": ["embed_tokens", "lm_head"]}),
    "an untied model, both ends in full": (llama, tokens, ATTENTION | {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "a tied model, a norm in full": (tied_llama, tokens, ATTENTION | {"modules_to_save": ["norm"]}),
    "rows, which PEFT ties anyway": (tied_llama, tokens, ATTENTION | {"trainable_token_indices": [1, 5]}),
    "rows of an untied model": (llama, tokens, ATTENTION | {"trainable_token_indices": [1, 5]}),
}


@pytest.mark.parametrize("kind", NOTHING)
def test_where_it_changes_nothing_it_is_taken(tmp_path: Path, kind: str) -> None:
    build, inputs, fields = NOTHING[kind]
    case = Case(build, inputs, {}, fields | {"ensure_weight_tying": True})
    base, theirs = theirs_saved(case, tmp_path / "theirs", lora_alpha=40)
    ours, x = copy.deepcopy(base), inputs()
    adapter = ll.load(ours, tmp_path / "theirs")
    live, plain = output(ours, x), output(base, x)
    assert_same(live, output(theirs, x), unlike=plain)
    ll.save(adapter, tmp_path / "ours", model=ours)
    assert not json.loads((tmp_path / "ours" / "adapter_config.json").read_text()).get("ensure_weight_tying")
    assert_same(output(peft_loads(base, tmp_path / "ours"), x), live, unlike=plain)


TIED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "the embedding": (tied_llama, {"target_modules": ["q_proj", "embed_tokens"]}, r"embed_tokens with lm_head"),
    "the head": (tied_llama, {"target_modules": ["q_proj", "lm_head"]}, "embed_tokens with lm_head"),
    "the embedding in full": (tied_llama, ATTENTION | {"modules_to_save": ["embed_tokens"]}, "embed_tokens with"),
    "the head in full": (tied_llama, ATTENTION | {"modules_to_save": ["lm_head"]}, "lm_head with"),
}


@pytest.mark.parametrize("kind", TIED)
def test_where_tied_modules_would_share_an_adapter_it_is_refused(tmp_path: Path, kind: str) -> None:
    build, fields, said = TIED[kind]
    base, _ = theirs_saved(Case(build, tokens, {}, fields | {"ensure_weight_tying": True}), tmp_path)
    with pytest.raises(ll.AdapterFileError, match=rf"{said}.*one adapter.*merge_and_unload, and save the model"):
        ll.load(base, tmp_path)
    assert not any("lora" in name for name, _ in base.named_parameters())


def test_without_the_base_it_becomes_nothing_else(tmp_path: Path) -> None:
    theirs_saved(Case(tied_llama, tokens, {}, ATTENTION | {"ensure_weight_tying": True}), tmp_path / "theirs")
    with pytest.raises(ll.AdapterFileError, match="only its base tells what its ensure_weight_tying means"):
        convert(tmp_path / "theirs", tmp_path / "x.safetensors", "loralib")
