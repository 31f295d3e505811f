"""Conversions without a model keep the function, and say what is lost."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaForSequenceClassification

import loralab as ll
from loralab.formats.convert import convert
from toys import TOYS, give_effect

TOKENS = torch.arange(16).view(2, 8)


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=32, n_embd=12, n_layer=2, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0)
    ).eval()


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def saved(folder: Path, **spec: object) -> Tensor:
    """Save an adapter for `gpt2()` and return its logits."""
    model = gpt2()
    adapter = ll.attach(model, ll.LoRA(**{"rank": 2, "alpha": 6, "targets": ["c_attn[q,v]"], **spec}))
    give_effect(adapter)
    ll.save(adapter, folder, model=model)
    return logits(model)


SPECS: dict[str, dict[str, object]] = {
    "q and v": {},
    "q, k and v": {"targets": ["c_attn[q,k,v]"]},
    "k alone": {"targets": ["c_attn[k]"]},
    "whole, with an embedding": {"targets": ["c_attn", "wte"]},
    "rank-stabilised": {"rank_stabilized": True, "targets": ["c_proj"]},
    "biases": {"bias": "lora_only", "targets": ["c_fc"]},
    "other ranks": {"rank_pattern": {"h.1.attn.c_attn": 3}, "targets": ["c_attn"]},
    "other alphas": {"alpha_pattern": {"h.1.attn.c_attn": 3}, "targets": ["c_attn"]},
}


@pytest.mark.parametrize("spec", SPECS)
def test_to_loralib_and_back(tmp_path: Path, spec: str) -> None:
    expected = saved(tmp_path / "a", **SPECS[spec])
    there = convert(tmp_path / "a", tmp_path / "b.safetensors", to="loralib")
    assert there.lossless == (spec != "other alphas")
    model = gpt2()
    ll.load(model, tmp_path / "b.safetensors")
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    back = convert(tmp_path / "b.safetensors", tmp_path / "c", to="peft")
    assert back.tensors == there.tensors
    model = gpt2()
    ll.load(model, tmp_path / "c")
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


def test_parts_are_written_as_a_merged_linear(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b.safetensors", to="loralib")
    with safe_open(tmp_path / "b.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "lora_alpha": "6.0"}
        assert file.get_slice("transformer.h.0.attn.c_attn.lora_B").get_shape() == [24, 2]


def test_a_folder_is_copied_with_its_fingerprint(tmp_path: Path) -> None:
    expected = saved(tmp_path / "a")
    assert convert(tmp_path / "a", tmp_path / "b").lossless
    model = gpt2()
    assert not any("could not be checked" in note for note in ll.load(model, tmp_path / "b").notes)
    assert torch.equal(logits(model), expected)


def test_the_authors_checkpoint_becomes_a_peft_folder(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "adapters" / "microsoft_lora" / "roberta_base_lora_mnli.bin"
    done = convert(source, tmp_path / "mnli", alpha=16)
    assert done.to_json() == {"dst": str(tmp_path / "mnli"), "tensors": 52, "lossless": True}
    model = RobertaForSequenceClassification(
        RobertaConfig(vocab_size=50, num_labels=3, max_position_embeddings=40)
    ).eval()
    adapter = ll.load(model, tmp_path / "mnli")
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 887_811
    expected = logits(model)
    ll.load(model, source, alpha=16)
    assert torch.equal(logits(model), expected)


def test_what_loralib_has_no_place_for(tmp_path: Path) -> None:
    model = TOYS["attention"].build()
    ll.save(ll.attach(model, ll.LoRA(rank=2, targets=["inner"])), tmp_path / "a")
    with pytest.raises(ll.AdapterFileError, match=r"no place for: inner\.out_proj \(attention output\)"):
        convert(tmp_path / "a", tmp_path / "b.safetensors", to="loralib")
    assert not (tmp_path / "b.safetensors").exists()


def test_what_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b.safetensors", to="loralib")
    with pytest.raises(ll.SpecError, match="choose one of peft, loralib, gguf"):
        convert(tmp_path / "a", tmp_path / "c", to="onnx")
    with pytest.raises(ll.OutputError, match="exists already"):
        convert(tmp_path / "b.safetensors", tmp_path / "a")
    with pytest.raises(ll.OutputError, match="exists already"):
        convert(tmp_path / "a", tmp_path / "b.safetensors", to="loralib")
    with pytest.raises(ll.SpecError, match=r"called \*\.safetensors"):
        convert(tmp_path / "a", tmp_path / "b.bin", to="loralib")
    with pytest.raises(ll.SpecError, match="says its own"):
        convert(tmp_path / "a", tmp_path / "c", alpha=16)


@pytest.mark.parametrize("to", ["peft", "loralib"])
def test_what_only_our_layout_holds_is_refused_with_the_reason(tmp_path: Path, to: str) -> None:
    model = gpt2()
    ll.save(ll.attach(model, ll.BottleneckAdapter(size=2)), tmp_path / "own", model=model)
    with pytest.raises(ll.AdapterFileError, match=f"converted to {to}, which has no place for it.*nonlinearity"):
        convert(tmp_path / "own", tmp_path / "other", to)
    assert not (tmp_path / "other").exists()
