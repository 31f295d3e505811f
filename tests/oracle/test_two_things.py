"""A folder that is a model and an adapter at once: transformers puts the adapter on; we refuse, and name both."""

from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import loralab as ll
from loralab.errors import AdapterStateError, ModelLoadError
from loralab.models.load import load_model
from oracle.peft_warnings import silenced
from tiny import write_llama

pytestmark = silenced


@pytest.fixture
def both(tmp_path: Path) -> Path:
    folder = write_llama(tmp_path / "both")
    base = LlamaForCausalLM.from_pretrained(folder)
    get_peft_model(base, LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).save_pretrained(folder)
    return folder


def test_it_is_no_model(both: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"model\.safetensors\) and an adapter \(adapter_config\.json"):
        load_model(str(both))


def test_a_model_on_which_transformers_has_put_it_takes_no_other(both: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(both)
    with pytest.raises(AdapterStateError, match="has an adapter of PEFT's in it already"):
        ll.attach(model, ll.LoRA(rank=2, targets=["v_proj"]))
    with pytest.raises(AdapterStateError, match="has an adapter of PEFT's in it already"):
        ll.load(model, both)


def test_as_an_adapter_it_is_read_with_a_note(both: Path, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(write_llama(tmp_path / "base"))
    adapter = ll.load(model, both)
    assert any("a whole model too (model.safetensors)" in note for note in adapter.notes)
