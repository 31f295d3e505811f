"""Resized adapters: exact where nothing is lost, as wrong as their singular values say, and loadable everywhere."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from _pytest.mark import ParameterSet
from safetensors.torch import load_file, save_file
from torch import nn

import loralab as ll
from loralab.analysis.adapters.deltas import deltas
from loralab.cli.main import main
from loralab.errors import AdapterFileError, OutputError, SpecError
from loralab.formats.read import read_adapter
from loralab.formats.resize import Resized, energy_ranks, pieces, read_resizable, uniform_ranks, write_resized
from oracle.case import Case, ours_saved, output, peft_loads, theirs_saved
from oracle.model_cases import MODELS
from oracle.module_cases import MODULES
from oracle.peft_warnings import silenced
from oracle.setting_cases import SETTINGS
from planted import Planted, Toy, spectrum, write_adapter
from small_models import SPECS, llama

pytestmark = silenced
CASES = MODELS | MODULES | SETTINGS
BARE = "mixtral, what PEFT takes for all-linear"
"""PEFT then names raw parameters without their modules."""
MODULE_NAMES = [f"layers.{layer}.{name}" for layer in (0, 1) for name in "qv"]


def planted(strengths: list[float], rank: int = 6) -> Planted:
    return {name: spectrum(strengths, rank, seed) for seed, name in enumerate(MODULE_NAMES, 1)}


def resized(source: Path, out: Path, rank: int) -> Resized:
    adapter = read_resizable(source)
    return write_resized(adapter, uniform_ranks(adapter, rank), out, "cut")


# -- planted ranks ----------------------------------------------------------------------------------------------


def test_a_planted_rank_is_kept_without_error(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "r6", planted([3.0, 1.0]), alpha=12)
    found = resized(source, tmp_path / "r2", 2)
    assert found.error < 1e-6
    assert {piece.rank for piece in found.pieces} == {2}
    assert (found.parameters_before, found.parameters) == (4 * 6 * 22, 4 * 2 * 22)
    adapter = read_resizable(source)
    assert set(energy_ranks(adapter, 1.0).values()) == {2}
    assert set(energy_ranks(adapter, 0.85).values()) == {1}


def test_the_stated_error_is_that_of_the_written_updates(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "r6", planted([3.0, 1.0, 0.5]), alpha=12)
    found = resized(source, tmp_path / "r1", 1)
    assert found.error == pytest.approx((1.25 / 10.25) ** 0.5, rel=1e-5)
    pairs = zip(
        deltas(read_adapter(source).demand()), deltas(read_adapter(tmp_path / "r1").demand()), found.pieces, strict=True
    )
    for before, after, piece in pairs:
        whole = before.scale * before.B @ before.A
        error = torch.linalg.norm(whole - after.scale * after.B @ after.A) / torch.linalg.norm(whole)
        assert before.name == after.name == piece.module
        assert piece.error == pytest.approx(float(error), rel=1e-5)
        assert before.scale == after.scale == 2


def test_ranks_by_energy_differ_and_load(tmp_path: Path) -> None:
    factors = planted([4.0, 3.0, 2.0]) | {"layers.1.v": spectrum([5.0, 0.1], 6)}
    source = write_adapter(tmp_path / "r6", factors)
    adapter = read_resizable(source)
    found = write_resized(adapter, energy_ranks(adapter, 0.99), tmp_path / "out", "cut")
    assert [piece.rank for piece in found.pieces] == [3, 3, 3, 1]
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 3)
    assert list(config["rank_pattern"].values()) == list(config["alpha_pattern"].values()) == [1]
    loaded = ll.load(Toy(), tmp_path / "out")
    assert isinstance(loaded.spec, ll.LoRA)
    assert (loaded.spec.rank, loaded.spec.rank_pattern) == (3, {"layers.1.v": 1})
    assert loaded.notes[-1] == "cut"


def test_an_update_of_zero_keeps_rank_one(tmp_path: Path) -> None:
    factors = planted([2.0]) | {"layers.0.q": (torch.randn(6, 12), torch.zeros(10, 6))}
    adapter = read_resizable(write_adapter(tmp_path / "r6", factors))
    found = write_resized(adapter, energy_ranks(adapter, 1.0), tmp_path / "out", "cut")
    assert [(piece.rank, piece.error < 1e-6) for piece in found.pieces] == [(1, True)] * 4


# -- every kind of layer, ours and PEFT's -----------------------------------------------------------------------


def pairs_with_sources() -> list[ParameterSet]:
    found = [pytest.param(case, ours_saved, id=f"ours, {name}") for name, case in CASES.items()]
    theirs = [(name, case) for name, case in CASES.items() if case.theirs is not None and name != BARE]
    return found + [pytest.param(case, theirs_saved, id=f"theirs, {name}") for name, case in theirs]


@pytest.mark.parametrize(("case", "save"), pairs_with_sources())
def test_every_kind_is_the_same_at_full_rank_and_peft_computes_the_cut_one(
    tmp_path: Path, case: Case, save: Callable[[Case, Path], tuple[nn.Module, nn.Module]]
) -> None:
    base, live = save(case, tmp_path / "whole")
    adapter = read_resizable(tmp_path / "whole")
    same = write_resized(adapter, {each.name: each.rank for each in pieces(adapter)}, tmp_path / "same", "cut")
    cut = resized(tmp_path / "whole", tmp_path / "cut", 1)
    outputs, x = {}, case.inputs()
    for name in ("same", "cut"):
        model = copy.deepcopy(base)
        ll.load(model, tmp_path / name)
        outputs[name] = output(model, x)
    assert same.error < 1e-6
    torch.testing.assert_close(outputs["same"], output(live, x), atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(output(peft_loads(base, tmp_path / "cut"), x), outputs["cut"], atol=1e-5, rtol=1e-5)
    assert torch.equal(outputs["cut"], output(live, x)) is (cut.error == 0)


@pytest.mark.filterwarnings("ignore")
def test_parameters_that_only_the_model_can_place_are_refused(tmp_path: Path) -> None:
    base, _ = theirs_saved(CASES[BARE], tmp_path / "theirs")
    with pytest.raises(SpecError, match=r"bare names .*ll\.save it"):
        read_resizable(tmp_path / "theirs")
    ll.save(ll.load(copy.deepcopy(base), tmp_path / "theirs"), tmp_path / "ours")
    assert resized(tmp_path / "ours", tmp_path / "cut", 1).error > 0


@pytest.mark.parametrize("name", ["lora+prefix-embed", "lora+bias", "lora"])
def test_what_only_our_layout_holds_is_resized_too(tmp_path: Path, name: str) -> None:
    specs = {
        "lora": SPECS["lora"],
        "lora+prefix-embed": [ll.LoRA(rank=3), ll.PrefixEmbedding(prefix=2, infix=1)],
        "lora+bias": ll.LoRA(rank=3, bias="lora_only"),
    }
    base = llama(attention_bias=True).eval()
    model, x = copy.deepcopy(base), {"input_ids": torch.randint(2, 60, (2, 5))}
    adapter = ll.attach(model, specs[name])
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    ll.save(adapter, tmp_path / "whole")
    resized(
        tmp_path / "whole", tmp_path / "same", max(piece.rank for piece in pieces(read_resizable(tmp_path / "whole")))
    )
    resized(tmp_path / "whole", tmp_path / "cut", 1)
    with torch.no_grad():
        live = model(**x).logits
        for folder, same in (("same", True), ("cut", False)):
            other = copy.deepcopy(base)
            found = ll.load(other, tmp_path / folder)
            assert torch.allclose(other(**x).logits, live, atol=1e-6) is same
            assert len(list(found.parameters())) == len(list(adapter.parameters()))


def test_half_precision_is_written_in_full(tmp_path: Path) -> None:
    """Rounding balanced factors to bfloat16 would cost more than the cut."""
    source = write_adapter(tmp_path / "r6", planted([3.0, 1.0]))
    half = {name: tensor.bfloat16() for name, tensor in load_file(source / "adapter_model.safetensors").items()}
    save_file(half, source / "adapter_model.safetensors", {"format": "pt"})
    (source / "loralab.json").unlink()
    assert resized(source, tmp_path / "same", 6).error < 1e-6
    assert {t.dtype for t in load_file(tmp_path / "same" / "adapter_model.safetensors").values()} == {torch.float32}


# -- the command line -------------------------------------------------------------------------------------------


def test_the_command_writes_an_adapter_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_adapter(tmp_path / "r6", planted([3.0, 1.0]))
    (source / "run.json").write_text('{"model_kind": "generation"}')
    assert main(["analyse", "resize", str(source), "--rank", "1", "--out", str(tmp_path / "r1"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["error"] == pytest.approx(10**-0.5)
    assert {row["rank"] for row in answer["modules"]} == {1}
    run = json.loads((tmp_path / "r1" / "run.json").read_text())
    assert (run["model_kind"], run["resized"]) == ("generation", f"cut by SVD from {source} to rank 1")
    assert main(["analyse", "resize", str(source), "--energy", "0.95", "--out", str(tmp_path / "new")]) == 0
    shown = capsys.readouterr().out
    assert "all together" in shown
    assert max(map(len, shown.splitlines()[:-1])) <= 80


def test_what_cannot_be_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_adapter(tmp_path / "r6", planted([3.0]))
    adapter = read_resizable(source)
    for rank in (0, 7, -1):
        with pytest.raises(SpecError, match=rf"rank {rank} is not possible for .*r6, whose updates have up to 6"):
            uniform_ranks(adapter, rank)
    for energy in (0.0, 1.5):
        with pytest.raises(SpecError, match=r"must be in \(0, 1\]"):
            energy_ranks(adapter, energy)
    with pytest.raises(OutputError, match="exists already"):
        resized(source, source, 2)
    ll.save(ll.attach(nn.Sequential(nn.Linear(2, 2)), ll.BitFit()), tmp_path / "bias")
    with pytest.raises(SpecError, match="no low-rank factors to resize"):
        read_resizable(tmp_path / "bias")
    assert main(["analyse", "resize", str(source), "--out", str(tmp_path / "x")]) == 2
    assert "neither was given" in capsys.readouterr().err


def test_a_damaged_adapter_is_refused(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "r6", planted([3.0]))
    tensors = source / "adapter_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")
    with pytest.raises(AdapterFileError, match="not the file"):
        read_resizable(source)
    (source / "loralab.json").unlink()
    with pytest.raises(AdapterFileError, match="NaN"):
        read_resizable(source)
