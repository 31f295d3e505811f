"""PEFT's `lora_bias`: B has a bias b, and the update adds s·b. Here it is a part of its layer's own trained bias."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import loralab as ll
from loralab.formats.convert import convert
from loralab.formats.inspect import inspect
from loralab.formats.resize import read_resizable
from oracle.case import Case, assert_same, output, peft_loads, theirs_saved
from oracle.model_cases import gpt2, llama, roberta, tokens
from oracle.module_cases import MLP, Everything, indices, rows, sandwich
from oracle.peft_warnings import silenced

pytestmark = [
    *silenced,
    pytest.mark.filterwarnings(r"ignore:Adapter 'default'. \d+ LoRA tensor\(s\) have invalid shape"),
    pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed but the targeted layer of type"),
]
Build = Callable[[], nn.Module]
Inputs = Callable[[], dict[str, Tensor]]
BOTH = {"target_modules": ["lin0", "lin1"]}
CASES: dict[str, tuple[Build, Inputs, dict[str, Any]]] = {
    "dense layers": (MLP, rows, BOTH),
    "rank-stabilised": (MLP, rows, BOTH | {"use_rslora": True}),
    "a scale of its own per layer": (MLP, rows, BOTH | {"alpha_pattern": {"lin1": 9}, "rank_pattern": {"lin0": 3}}),
    "beside trained biases": (MLP, rows, BOTH | {"bias": "all"}),
    "beside the layers' trained biases": (MLP, rows, BOTH | {"bias": "lora_only"}),
    "a head in full": (MLP, rows, BOTH | {"modules_to_save": ["head"]}),
    "transformers' Conv1D": (gpt2, tokens, {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "BERT": (roberta, tokens, {"target_modules": ["query", "value", "dense"], "lora_alpha": 40}),
    "a convolution": (sandwich(lambda: nn.Conv2d(16, 8, 3, padding=1), 2), rows, {"target_modules": ["inner"]}),
}


@pytest.mark.parametrize("kind", CASES)
def test_it_computes_what_peft_computes_live_merged_and_saved_again(tmp_path: Path, kind: str) -> None:
    build, inputs, fields = CASES[kind]
    base, theirs = theirs_saved(Case(build, inputs, {}, fields), tmp_path / "theirs", lora_bias=True)
    ours, x = copy.deepcopy(base), inputs()
    adapter = ll.load(ours, tmp_path / "theirs")
    assert any("lora_bias" in note for note in adapter.notes)
    live, plain = output(ours, x), output(base, x)
    assert_same(live, output(theirs, x), unlike=plain)
    ll.save(adapter, tmp_path / "ours", model=ours)
    assert_same(output(peft_loads(base, tmp_path / "ours"), x), live, unlike=plain)
    again = copy.deepcopy(base)
    ll.load(again, tmp_path / "ours")
    assert torch.equal(output(again, x), live)
    ll.merge(ours)
    assert_same(output(ours, x), output(theirs.merge_and_unload(), x), unlike=plain)
    ll.unmerge(ours)
    assert torch.equal(output(ours, x), live)


def test_rows_of_an_embedding_train_beside_it(tmp_path: Path) -> None:
    case = Case(llama, tokens, {}, {"target_modules": ["q_proj"]}, {"trainable_token_indices": [3, 5]})
    base, theirs = theirs_saved(case, tmp_path, lora_bias=True)
    x = {"input_ids": torch.arange(2, 9).view(1, 7)}
    plain = output(base, x)
    ll.load(base, tmp_path)
    assert_same(output(base, x), output(theirs, x), unlike=plain)


def test_b_alone_has_an_effect(tmp_path: Path) -> None:
    base, theirs = theirs_saved(Case(MLP, rows, {}, BOTH), tmp_path / "peft", lora_bias=True)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.mul_("lora_A" not in name or "lora" not in name)
    theirs.save_pretrained(tmp_path / "theirs")
    ours, x = copy.deepcopy(base), rows()
    ll.load(ours, tmp_path / "theirs")
    assert_same(output(ours, x), output(theirs, x), unlike=output(base, x))


def test_it_goes_on_training(tmp_path: Path) -> None:
    base, _ = theirs_saved(Case(MLP, rows, {}, BOTH), tmp_path, lora_bias=True)
    adapter = ll.load(base, tmp_path)
    base(**rows()).sum().backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters())
    assert adapter.spec.bias == "lora_only"


def test_a_layer_without_a_bias_gets_one(tmp_path: Path) -> None:
    case = Case(llama, tokens, {}, {"target_modules": ["q_proj", "up_proj"]})
    base, theirs = theirs_saved(case, tmp_path / "theirs", lora_bias=True, use_rslora=True)
    x = case.inputs()
    plain = output(base, x)
    ours = copy.deepcopy(base)
    adapter = ll.load(ours, tmp_path / "theirs")
    assert_same(output(ours, x), output(theirs, x), unlike=plain)
    assert any("have no bias: the adapter brings one" in note for note in adapter.notes)
    assert len([name for name, _ in adapter.named_parameters() if name.endswith("lora_bias")]) == 4
    with pytest.raises(ll.AdapterStateError, match="a bias of a layer that has none"):
        ll.merge(ours)
    ll.save(adapter, tmp_path / "ours", model=ours)
    again = copy.deepcopy(base)
    ll.load(again, tmp_path / "ours")
    assert torch.equal(output(again, x), output(ours, x))
    sequences = len(x["input_ids"])
    with ll.rows(ours, [adapter.name, *[None] * (sequences - 1)]):
        mixed = output(ours, x).view(sequences, -1)
    torch.testing.assert_close(mixed[0], output(again, x).view(sequences, -1)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed[1:], plain.view(sequences, -1)[1:], atol=1e-5, rtol=1e-5)
    ll.detach(ours)
    assert torch.equal(output(ours, x), plain)


NOWHERE: dict[str, tuple[Build, Inputs, dict[str, Any], str]] = {
    "an attention": (Everything, indices, {"target_modules": ["attend"]}, r"attend is neither a dense layer"),
}


@pytest.mark.parametrize("kind", NOWHERE)
def test_where_the_layer_has_no_bias_it_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    build, inputs, fields, said = NOWHERE[kind]
    base, _ = theirs_saved(Case(build, inputs, {}, fields), tmp_path, lora_bias=True)
    with pytest.raises(ll.AdapterFileError, match=said):
        ll.load(base, tmp_path)


def test_a_config_that_says_it_of_a_file_without_is_refused(tmp_path: Path) -> None:
    base, _ = theirs_saved(Case(MLP, rows, {}, BOTH), tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_bias": True}))
    with pytest.raises(ll.AdapterFileError, match=r"lin0\.lora_B\.bias is missing"):
        ll.load(base, tmp_path)


@pytest.mark.parametrize("key, value", [("use_dora", True), ("alora_invocation_tokens", [3])])
def test_what_peft_does_not_know_beside_it_is_refused(tmp_path: Path, key: str, value: object) -> None:
    base, _ = theirs_saved(Case(MLP, rows, {}, BOTH), tmp_path, lora_bias=True)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))
    with pytest.raises(ll.AdapterFileError, match=f"lora_bias is true beside {key}"):
        ll.load(base, tmp_path)


@pytest.mark.parametrize("to", ["loralib", "gguf"])
def test_without_the_base_it_becomes_nothing_else(tmp_path: Path, to: str) -> None:
    theirs_saved(Case(MLP, rows, {}, BOTH), tmp_path / "theirs", lora_bias=True)
    target = tmp_path / {"loralib": "x.safetensors", "gguf": "x.gguf"}[to]
    with pytest.raises(ll.AdapterFileError, match=r"only its base tells what its lora_bias means; ll\.load it"):
        convert(tmp_path / "theirs", target, to)


def test_it_is_not_resized_without_the_base(tmp_path: Path) -> None:
    theirs_saved(Case(MLP, rows, {}, BOTH), tmp_path / "theirs", lora_bias=True)
    with pytest.raises(ll.AdapterFileError, match="only its base tells what its lora_bias means"):
        read_resizable(tmp_path / "theirs")


def test_inspecting_names_it_for_what_it_is(tmp_path: Path) -> None:
    theirs_saved(Case(MLP, rows, {}, BOTH), tmp_path, lora_bias=True)
    said = inspect(tmp_path)
    assert any("every B has a bias" in note for note in said.notes)
    assert not any("saved in full" in note for note in said.notes)
    assert all(finding.severity == "note" for finding in said.findings)
