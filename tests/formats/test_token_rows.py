"""Trained rows of embeddings in files: what is told of them, merged, resized, refused, and what damage does."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import loralab as ll
from loralab.formats.convert import convert
from loralab.formats.doctor.examine import examine
from loralab.formats.inspect import inspect
from loralab.formats.merged.folder import write_merged
from loralab.formats.resize import read_resizable, uniform_ranks, write_resized
from small_models import llama, logits
from toys import give_effect

TOKENS = [4, 6, 17]


def saved(folder: Path, tied: bool = True, **fields: object) -> nn.Module:
    """A model with an adapter of rows that has an effect and was saved."""
    torch.manual_seed(0)
    model = llama(tie_word_embeddings=tied).eval()
    adapter = ll.attach(model, ll.LoRA(rank=2, trainable_token_indices=TOKENS, **fields))
    give_effect(adapter)
    ll.save(adapter, folder, model=model)
    return model


def test_inspect_and_doctor_say_that_rows_are_trained(tmp_path: Path) -> None:
    model = saved(tmp_path)
    live = logits(model)
    assert "3 rows of model.embed_tokens are trained (trainable_token_indices)" in inspect(tmp_path).notes
    ll.detach(model)
    found = examine(tmp_path, model)
    assert found.healthy
    ll.load(model, tmp_path)
    assert torch.equal(logits(model), live)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("source", [True, False])
def test_merged_files_hold_the_rows_and_a_tie_stays_one(tmp_path: Path, tied: bool, source: bool) -> None:
    model = saved(tmp_path / "adapter", tied)
    live = logits(model)
    base = llama(tie_word_embeddings=tied)
    ll.detach(model)
    base.load_state_dict(model.state_dict())
    base.save_pretrained(tmp_path / "base")
    adapter = ll.load(model, tmp_path / "adapter")
    write_merged(model, adapter, tmp_path / "out", source=tmp_path / "base" if source else None)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(logits(merged), live, atol=1e-5, rtol=0)
    assert merged.config.tie_word_embeddings is tied
    rows = adapter.updates["model.embed_tokens"].rows_TH
    torch.testing.assert_close(merged.model.embed_tokens.weight[TOKENS], rows, atol=1e-6, rtol=0)


def test_rows_that_a_tied_head_does_not_share_untie_what_is_merged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = llama(tie_word_embeddings=True).eval()
    adapter = ll.attach(model, ll.LoRA(rank=2, trainable_token_indices={"lm_head": TOKENS}))
    give_effect(adapter)
    notes = write_merged(model, adapter, tmp_path).notes
    merged = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert any("written apart" in note for note in notes)
    torch.testing.assert_close(logits(merged), logits(model), atol=1e-5, rtol=0)


def test_a_lower_rank_keeps_the_rows(tmp_path: Path) -> None:
    model = saved(tmp_path / "whole")
    rows = model._loralab_adapters.adapter("default").updates["model.embed_tokens"].rows_TH.detach().clone()
    whole = read_resizable(tmp_path / "whole")
    write_resized(whole, uniform_ranks(whole, 1), tmp_path / "cut", "cut")
    ll.detach(model)
    again = ll.load(model, tmp_path / "cut")
    assert torch.equal(again.updates["lm_head"].rows_TH, rows)
    assert again.spec.rank == 1


@pytest.mark.parametrize("to, name", [("gguf", "out.gguf"), ("loralib", "out.safetensors")])
def test_formats_of_pairs_have_no_place_for_rows(tmp_path: Path, to: str, name: str) -> None:
    saved(tmp_path / "adapter")
    with pytest.raises(ll.AdapterFileError, match=r"trainable_token_indices.*merge it"):
        convert(tmp_path / "adapter", tmp_path / name, to)


def test_a_folder_is_copied_with_its_rows(tmp_path: Path) -> None:
    model = saved(tmp_path / "adapter")
    live = logits(model)
    convert(tmp_path / "adapter", tmp_path / "copy", "peft")
    ll.detach(model)
    ll.load(model, tmp_path / "copy")
    assert torch.equal(logits(model), live)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"indices": []},
        {"indices": [4, 4, 6]},
        {"indices": [-1, 4, 6]},
        {"indices": "4,6"},
        {"indices": TOKENS, "follows": 3},
        {"indices": TOKENS, "follows": "model.nowhere"},
        {"indices": TOKENS, "follows": "model.layers.0.self_attn.q_proj"},
        {"indices": [4, 6], "follows": "model.embed_tokens"},
    ],
)
@pytest.mark.parametrize("bitten", ["lm_head", "model.embed_tokens"])
def test_a_damaged_record_of_rows_is_refused(tmp_path: Path, settings: dict[str, object], bitten: str) -> None:
    model = saved(tmp_path)
    ll.detach(model)
    told = json.loads((tmp_path / "loralab.json").read_text())
    told["modules"][bitten] = {"kind": "token rows", "settings": settings}
    (tmp_path / "loralab.json").write_text(json.dumps(told))
    with pytest.raises(ll.AdapterFileError, match="damaged"):
        ll.load(model, tmp_path)
