"""`export_merged`: the active adapter in a model's folder, from Python, and the model as before."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import loralab as ll
from loralab.core.adapter import adapters_of
from loralab.formats.quantized import quantize_base
from loralab.models.load import load_model
from tiny import byte_tokenizer, write_llama


def adapted(model: nn.Module, name: str = "default", **spec: Any) -> ll.Adapter:
    adapter = ll.attach(model, ll.LoRA(rank=2, alpha=8, **spec), name=name)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return adapter


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(torch.arange(12).reshape(2, 6)).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["lm_head"]], ids=["attention", "tied head"])
@pytest.mark.parametrize("merged", [False, True])
def test_what_is_written_is_the_adapter_and_the_model_is_as_before(
    tmp_path: Path, merged: bool, targets: list[str]
) -> None:
    base = write_llama(tmp_path / "base", tie_word_embeddings=True)
    model = load_model(str(base), dtype="float32", device="cpu").model
    adapted(model, targets=targets)
    if merged:
        ll.merge(model)
    before, ids = logits(model), [id(each) for each in model.parameters()]
    result = ll.export_merged(model, tmp_path / "out")
    assert result.verification is not None
    assert result.verification.passed
    assert [id(each) for each in model.parameters()] == ids
    assert torch.equal(logits(model), before)
    assert adapters_of(model).routing.merged == ("default" if merged else None)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(opened), before, rtol=0, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == byte_tokenizer().chat_template


def test_a_model_that_came_from_nowhere_is_written_from_memory_with_the_tokenizer_given(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(write_llama(tmp_path / "base"))
    model.name_or_path = model.config.name_or_path = ""
    adapted(model, "a")
    adapted(model, "b")
    result = ll.export_merged(model, tmp_path / "out", "a", tokenizer=byte_tokenizer(), verify="tensors")
    assert result.tensors == 4
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    assert adapters_of(model).routing.active == "b"


def test_what_cannot_be_exported_is_refused_with_what_to_do(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    adapted(plain, targets=["0"])
    with pytest.raises(ll.SpecError, match=r"Sequential is not a transformers model.*state_dict"):
        ll.export_merged(plain, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(write_llama(tmp_path / "base", hidden_size=64))
    adapted(model, "a")
    adapted(model, "b")
    ll.activate(model, ["a", "b"])
    with pytest.raises(ll.AdapterStateError, match=r"'a' \+ 'b' speak together; .*combine"):
        ll.export_merged(model, tmp_path / "out")
    ll.activate(model, None)
    with pytest.raises(ll.AdapterStateError, match=r"no adapter is active; activate"):
        ll.export_merged(model, tmp_path / "out")
    ll.detach(model)
    quantize_base(model, "nf4")
    adapted(model, targets=["q_proj"])
    with pytest.raises(ll.AdapterStateError, match="nf4"):
        ll.export_merged(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
