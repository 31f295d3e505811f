"""Activated LoRA at rest: in our own layout, and where a file or a merged model would act at every position."""

from pathlib import Path

import pytest
import torch

import loralab as ll
from loralab.formats.convert import convert
from loralab.formats.doctor.examine import logit_change
from loralab.formats.inspect import inspect
from loralab.formats.read import read_adapter
from loralab.formats.resize import read_resizable, uniform_ranks, write_resized
from small_models import gpt2, llama
from toys import give_effect, quiet

CALL = [7, 8]
IDS = torch.tensor([[11, 12, 7, 8, 13, 14]])


def saved(folder: Path, model: torch.nn.Module, **fields: object) -> torch.Tensor:
    """The logits of the model under an adapter that was saved into the folder."""
    adapter = ll.attach(model.eval(), ll.LoRA(rank=4, invocation_tokens=CALL, **fields))
    give_effect(adapter)
    ll.save(adapter, folder, model=model)
    live = quiet(model, IDS).logits
    ll.detach(model)
    return live


def test_parts_of_a_fused_projection_come_back(tmp_path: Path) -> None:
    model = gpt2()
    live = saved(tmp_path, model, targets="c_attn[q,v]")
    adapter = ll.load(model, tmp_path)
    assert (adapter.invocation, list(adapter.spec.invocation_tokens)) == (tuple(CALL), CALL)
    torch.testing.assert_close(quiet(model, IDS).logits, live)


def test_other_adapters_beside_it_are_in_our_own_layout(tmp_path: Path) -> None:
    model = llama().eval()
    specs = [ll.LoRA(rank=2, targets="q_proj", invocation_tokens=CALL), ll.LoRA(rank=2, targets="v_proj")]
    adapter = ll.attach(model, specs)
    give_effect(adapter)
    ll.save(adapter, tmp_path)
    live = quiet(model, IDS).logits
    ll.detach(model)
    ll.load(model, tmp_path)
    torch.testing.assert_close(quiet(model, IDS).logits, live)


def test_what_would_act_everywhere_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "alora", llama(), targets="q_proj")
    for to, name in (("loralib", "x.safetensors"), ("gguf", "x.gguf")):
        with pytest.raises(ll.AdapterFileError, match="only from its invocation tokens on"):
            convert(tmp_path / "alora", tmp_path / name, to)
    model = llama().eval()
    ll.load(model, tmp_path / "alora", allow_other_base=True)
    with pytest.raises(ll.AdapterStateError, match="from its invocation tokens on"):
        ll.merge(model)


def test_a_copy_and_a_smaller_rank_keep_the_invocation(tmp_path: Path) -> None:
    model = llama()
    live = saved(tmp_path / "alora", model, targets="q_proj")
    convert(tmp_path / "alora", tmp_path / "copy", "peft")
    whole = read_resizable(tmp_path / "alora")
    write_resized(whole, uniform_ranks(whole, 1), tmp_path / "small", "smaller")
    for name in ("copy", "small"):
        assert ll.load(model, tmp_path / name).invocation == tuple(CALL)
        found = quiet(model, IDS).logits
        assert torch.equal(found, live) == (name == "copy")
        assert torch.equal(found[:, :2], live[:, :2])


def test_it_is_told_what_it_is_and_that_it_does_something(tmp_path: Path) -> None:
    model = llama()
    saved(tmp_path, model, targets="q_proj")
    found = inspect(tmp_path)
    assert found.method == "alora"
    assert any("[7, 8]" in note for note in found.notes)
    assert logit_change(model, read_adapter(tmp_path)) > 1e-4
