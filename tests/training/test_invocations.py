"""Adapters that act from their invocation on (aLoRA), trained as the command line trains them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loralab as ll
from loralab.cli.settings import build_config
from loralab.methods.settings import MethodSettings
from loralab.methods.table import METHODS
from loralab.models.load import load_model
from loralab.tasks.table import open_task
from tiny import byte_tokenizer, write_lines
from training.conftest import Run

CALL = tuple(byte_tokenizer()(": ")["input_ids"])
"""What every prompt of the data ends with."""
TARGETS = {"targets": "q_proj,v_proj"}


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_or_is_refused_before_anything_is_written(configured: Run, method: str) -> None:
    config = configured(method=method, invocation_tokens=CALL, steps=3, **TARGETS)
    if not METHODS[method].takes_invocation:
        with pytest.raises(ll.SpecError, match=f"method '{method}' acts on every token of a text; choose from lora"):
            ll.train(config)
        assert not Path(config.out).exists()
        return
    result = ll.train(config)
    loaded = load_model(config.model, dtype="float32", device="cpu")
    without = torch.tensor([loaded.tokenizer("say b")["input_ids"]])
    before = loaded.model(without).logits
    adapter = ll.load(loaded.model, config.out)
    assert adapter.invocation == CALL
    assert torch.equal(loaded.model(without).logits, before)
    again = ll.evaluate(loaded.model, loaded.tokenizer, open_task("jsonl", config.data), "validation", limit=8)
    assert again.loss == pytest.approx(result.metrics["loss"], abs=1e-5)


def test_the_factors_move(configured: Run) -> None:
    config = configured(invocation_tokens=CALL, steps=3, eval_limit=0, **TARGETS)
    ll.train(config)
    tensors = load_file(Path(config.out) / "adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    assert json.loads((Path(config.out) / "adapter_config.json").read_text())["alora_invocation_tokens"] == list(CALL)


def test_data_without_the_invocation_are_refused_or_counted(configured: Run, tmp_path: Path) -> None:
    absent = tuple(byte_tokenizer()("#")["input_ids"])
    config = configured(invocation_tokens=absent, steps=1, eval_limit=0, **TARGETS)
    with pytest.raises(ll.SpecError, match=r"none of the 48 training examples holds them"):
        ll.train(config)
    lines = [{"prompt": "say b#" if number else "say b", "completion": "b"} for number in range(4)]
    ll.train(replace(config, data=str(write_lines(tmp_path / "train.jsonl", lines))))
    notes = json.loads((Path(config.out) / "run.json").read_text())["notes"]
    assert any("1 of 4 training examples hold no invocation" in note for note in notes)


def test_a_run_starts_from_an_adapter_of_the_same_invocation_only(configured: Run, tmp_path: Path) -> None:
    config = configured(invocation_tokens=CALL, steps=1, eval_limit=0, **TARGETS)
    ll.train(config)
    second = replace(config, out=str(tmp_path / "second"), init_adapter=config.out)
    ll.train(second)
    with pytest.raises(ll.SpecError, match=r"this run's from the first token: .* give the same invocation_tokens"):
        ll.train(replace(second, out=str(tmp_path / "third"), invocation_tokens=None))


def test_the_flag_is_a_list_of_tokens() -> None:
    assert build_config(MethodSettings, {"invocation_tokens": "4,6"}, {}, "").invocation_tokens == (4, 6)
