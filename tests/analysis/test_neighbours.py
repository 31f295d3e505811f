"""Analyses of adapters whose updates are no plain pairs: what is cut and switched off is their own ΔW."""

from pathlib import Path

import pytest
import torch

import loralab as ll
from loralab.analysis.adapters.amplification import amplifications
from loralab.analysis.adapters.parts import Truncation, cells_of, switched_off
from loralab.analysis.adapters.subspace import overlaps_with_base
from loralab.core.attach import Method
from loralab.formats.read import read_adapter
from loralab.formats.resize import read_resizable, uniform_ranks, write_resized
from small_models import build, logits
from toys import give_effect

SPECS: dict[str, Method] = {
    "dora": ll.LoRA(rank=4, magnitude=True),
    "pissa": ll.LoRA(rank=4, init="pissa"),
    "vera": ll.VeRA(rank=8),
    "tied": ll.TiedLoRA(rank=4),
    "multilora": ll.MultiLoRA(rank=2),
    "adamix": ll.AdaMix(rank=4),
    "lora-xs": ll.LoRAXS(rank=4),
}


@pytest.mark.parametrize("method", SPECS)
def test_cut_and_switched_off_they_are_again_themselves(method: str) -> None:
    model = build("llama")
    before = logits(model)
    adapter = ll.attach(model, SPECS[method])
    give_effect(adapter)
    live, cut = logits(model), Truncation(adapter)
    with cut.to(cut.rank):
        torch.testing.assert_close(logits(model), live, rtol=1e-4, atol=1e-5)
    with cut.to(1):
        assert not torch.allclose(logits(model), live, rtol=1e-4, atol=1e-5)
    with switched_off(model, adapter, cells_of(adapter)):
        assert torch.equal(logits(model), before) == (method != "dora")  # whose lengths stay trained
    assert torch.equal(logits(model), live)


@pytest.mark.parametrize("method", [name for name in SPECS if name != "vera"])
def test_resized_they_are_written_as_what_they_come_to(method: str, tmp_path: Path) -> None:
    model = build("gpt2")
    adapter = ll.attach(model, SPECS[method])
    give_effect(adapter)
    ll.save(adapter, tmp_path / "whole", model=model)
    resizable = read_resizable(tmp_path / "whole")
    write_resized(resizable, uniform_ranks(resizable, 2), tmp_path / "small", "for the test")
    ll.detach(model)
    before = logits(model)
    ll.load(model, tmp_path / "small")
    assert not torch.equal(logits(model), before)
    assert {pair.A.shape[0] for pair in read_adapter(tmp_path / "small").demand().updates} == {
        2 * 2
    }  # q and v of one projection


def test_vera_has_no_rank_to_cut(tmp_path: Path) -> None:
    model = build("llama")
    ll.save(ll.attach(model, SPECS["vera"]), tmp_path, model=model)
    with pytest.raises(ll.SpecError, match="no rank to cut"):
        read_resizable(tmp_path)


@pytest.mark.parametrize("method", [name for name in SPECS if name not in ("dora", "pissa")])
def test_parts_of_a_fused_projection_are_compared_with_their_rows_of_the_base(method: str, tmp_path: Path) -> None:
    model = build("gpt2")
    adapter = ll.attach(model, SPECS[method])
    give_effect(adapter)
    ll.save(adapter, tmp_path, model=model)
    ll.detach(model)
    W_IO = model.get_parameter("transformer.h.0.attn.c_attn.weight").detach()
    q, v, *_ = amplifications(read_adapter(tmp_path).demand(), model)
    assert [q.name, v.name] == ["transformer.h.0.attn.c_attn.q", "transformer.h.0.attn.c_attn.v"]
    assert q.base_norm == pytest.approx(float(W_IO[:, :32].norm()), rel=1e-5)
    assert v.base_norm == pytest.approx(float(W_IO[:, 64:].norm()), rel=1e-5)
    assert (
        len(list(overlaps_with_base(read_adapter(tmp_path).demand(), model))) == 12
    )  # q and v, left and right, of three blocks
