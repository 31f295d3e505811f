"""The implementation of attention that was asked for, or why there is none of it."""

from pathlib import Path

import pytest

import loralab as ll
from loralab.models.load import load_model
from loralab.training.base import made_fast
from tiny import write_llama


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_it_is_the_models_own_for_the_whole_run(tmp_path: Path, name: str) -> None:
    source = str(write_llama(tmp_path / "llama"))
    loaded = load_model(source, dtype="float32", device="cpu", attention=name)
    with made_fast(loaded, attention=name) as said:
        assert loaded.model.config._attn_implementation == name
        assert f"attention: {name}, as asked" in said
    with made_fast(loaded):
        assert loaded.model.config._attn_implementation == ("loralab" if name == "sdpa" else name)


@pytest.mark.parametrize("name", ["quick", "kernels-community/flash-attn", "paged|eager", ""])
def test_names_that_are_none_are_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ll.SpecError, match=r"not known to transformers .* choose eager, .*flash_attention_2.*sdpa"):
        load_model("nowhere", attention=name)


def test_what_this_machine_does_not_have_is_said(tmp_path: Path) -> None:
    source = str(write_llama(tmp_path / "llama"))
    with pytest.raises(ll.LoralabError, match=r"attention flash_attention_2 cannot be used here: .*FlashAttention2"):
        load_model(source, dtype="float32", device="cpu", attention="flash_attention_2")
