"""Parts of an adapter switched off: exactly the base with all of them off, exactly itself afterwards."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import loralab as ll
from loralab.analysis.adapters.matrices import Part, parts_of
from loralab.analysis.adapters.parts import cells_of, has_more, switched_off
from loralab.cli.main import main
from loralab.core.adapter import Adapter
from small_models import gpt2, llama
from toys import TOYS, give_effect, quiet
from trained import TARGETS, Trained, train_adapter


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_adapter(tmp_path_factory.mktemp("matrices"))


def adapted(model: nn.Module, *specs: object) -> Adapter:
    adapter = ll.attach(model, list(specs))  # type: ignore[arg-type]
    give_effect(adapter)
    return adapter


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("name", TOYS)
def test_with_everything_off_it_is_the_base_and_afterwards_itself_bit_for_bit(name: str) -> None:
    toy = TOYS[name]
    model, x = toy.build().eval(), toy.inputs(torch.float32)
    base = quiet(model, x)
    adapter = adapted(model, ll.LoRA(rank=2, targets=list(toy.targets)))
    live, held = quiet(model, x), [id(tensor) for _, tensor in adapter.named_tensors()]
    assert not torch.equal(live, base)
    with switched_off(model, adapter, cells_of(adapter)):
        assert torch.equal(quiet(model, x), base)
    assert torch.equal(quiet(model, x), live)
    assert [id(tensor) for _, tensor in adapter.named_tensors()] == held


@pytest.mark.parametrize("build", [llama, gpt2])
def test_a_part_that_is_off_is_an_adapter_that_never_had_it(build: Callable[[], nn.Module]) -> None:
    """The rest of the adapter alone, put on a model of its own, computes the same."""
    torch.manual_seed(1)
    model, ids = build().eval(), torch.randint(2, 60, (2, 5))
    adapter = adapted(model, ll.LoRA(rank=2, targets=["q", "v"]))
    live = logits(model, ids)
    for part in parts_of(adapter):
        tensors = {name: tensor.clone() for name, tensor in adapter.named_tensors() if name.endswith("lora_B")}
        with switched_off(model, adapter, part.cells):
            found = logits(model, ids)
        with torch.no_grad():
            for path, piece in part.cells:
                adapter.updates[path].factors_of(piece).lora_B.zero_()
            torch.testing.assert_close(found, logits(model, ids), atol=1e-6, rtol=1e-6)
            for name, tensor in adapter.named_tensors():
                if name in tensors:
                    tensor.copy_(tensors[name])
        assert not torch.allclose(found, live)
        assert torch.equal(logits(model, ids), live)


def test_an_error_inside_leaves_the_adapter_whole() -> None:
    model, ids = llama().eval(), torch.randint(2, 60, (2, 5))
    adapter = adapted(model, ll.LoRA(rank=2, targets=["q", "v"]))
    live = logits(model, ids)
    for cells in (cells_of(adapter), cells_of(adapter)[:2]):
        with suppress(ZeroDivisionError), switched_off(model, adapter, cells):
            raise ZeroDivisionError
        assert torch.equal(logits(model, ids), live)


def test_what_is_trained_in_full_stays_on() -> None:
    model, ids = llama(attention_bias=True).eval(), torch.randint(2, 60, (2, 5))
    base = logits(model, ids)
    adapter = adapted(model, ll.LoRA(rank=2, targets=["q", "v"], bias="lora_only"))
    assert has_more(adapter)
    with switched_off(model, adapter, cells_of(adapter)):
        off = logits(model, ids)
    for path, part in cells_of(adapter):
        adapter.updates[path].factors_of(part).lora_B.data.zero_()
    torch.testing.assert_close(off, logits(model, ids), atol=1e-6, rtol=1e-6)
    assert not torch.allclose(off, base)


def test_parts_are_kinds_and_groups_of_blocks() -> None:
    adapter = adapted(llama(), ll.LoRA(rank=2, targets=["q_proj", "v_proj", "lm_head"], layers=None))
    names = [(part.by, part.name, len(part.cells)) for part in parts_of(adapter)]
    assert names == [
        ("kind", "q_proj", 3), ("kind", "v_proj", 3), ("kind", "lm_head", 1),
        ("layer", "0", 2), ("layer", "1", 2), ("layer", "2", 2), ("layer", "outside blocks", 1),
    ]  # fmt: skip
    grouped = [part for part in parts_of(adapter, 2) if part.by == "layer"]
    assert [(part.name, len(part.cells)) for part in grouped] == [("0", 2), ("1-2", 4), ("outside blocks", 1)]
    fused = parts_of(adapted(gpt2(), ll.LoRA(rank=2, targets=["c_attn[q,v]"])))
    assert [part.name for part in fused if part.by == "kind"] == ["c_attn[q]", "c_attn[v]"]
    assert all(isinstance(part, Part) for part in fused)


def test_the_command_measures_each_part(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "matrices"
    assert main(["analyse", "matrices", *trained.flags, "--out", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    rows = {row["part"]: row for row in answer["parts"]}
    assert list(rows) == [*TARGETS, "0", "1"]
    gain = answer["without_adapter"] - answer["with_adapter"]
    assert answer["gain"] == pytest.approx(gain)
    for row in rows.values():
        assert row["lost_share"] == pytest.approx((row["without"] - answer["with_adapter"]) / gain)
        assert row["alone_share"] == pytest.approx((answer["without_adapter"] - row["alone"]) / gain)
    assert rows["0"]["without"] == pytest.approx(rows["1"]["alone"])
    assert json.loads((out / "matrices.json").read_text())["parts"] == answer["parts"]
    assert (out / "matrices.png").stat().st_size > 10_000


def test_the_command_shows_a_table(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*trained.flags, "--layer-groups", "1", "--limit", "2", "--out", str(tmp_path)]
    assert main(["analyse", "matrices", *flags]) == 0
    shown = capsys.readouterr().out
    assert "block 0-1" in shown
    assert "measured on 2 examples only" in shown
    assert max(len(line) for line in shown.splitlines() if "/" not in line) <= 80


def test_what_cannot_be_says_why(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", "matrices", *trained.flags, "--out", str(tmp_path), "--layer-groups", "0"]) == 2
    assert "layer-groups 0: must be at least 1" in capsys.readouterr().err
    model = llama(attention_bias=True)
    ll.save(ll.attach(model, ll.BitFit()), tmp_path / "bias")
    with pytest.raises(ll.LoralabError, match="no low-rank factors to switch off"):
        cells_of(ll.load(model, tmp_path / "bias", name="again"))
