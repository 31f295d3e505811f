"""`train` with each of LoRA's neighbours: it learns, resumes to the bit, and its folder opens again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loralab as ll
from loralab.files.names import PLAIN_NAME
from loralab.models.load import load_model
from loralab.training.folder import RunFolder, clear
from loralab.training.prepare import prepare
from training.conftest import Run

METHODS = {
    "rslora": {},
    "lora-fa": {},
    "lora-fa, nearest": {"method": "lora-fa", "nearest_step": True},
    "dora": {},
    "pissa": {"lr": 5e-3},
    "vera": {"lr": 0.3, "rank": 24},
    "tied": {},
    "multilora": {},
    "adamix": {"experts": 3},
    "adamix-adapter": {"experts": 3, "size": 4, "targets": "down_proj"},
    "lora-xs": {"lr": 0.1},
}
EXPORTED = ("tied", "multilora", "adamix", "lora-xs")
"""Methods that PEFT lacks and that come to a plain LoRA."""
TWO = {"targets": "q_proj,v_proj"}


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_and_comes_back(configured: Run, method: str) -> None:
    config = configured(**TWO | {"method": method, "steps": 25, "eval_limit": 16, "save_every": 0} | METHODS[method])
    result = ll.train(config)
    assert result.last_loss is not None
    assert result.first_loss is not None
    assert result.last_loss < result.first_loss - 0.05
    model = load_model(config.model, dtype="float32", device="cpu").model
    ids = torch.arange(10, 26)[None]
    before = model(input_ids=ids).logits
    ll.load(model, config.out)
    live = model(input_ids=ids).logits
    assert not torch.equal(live, before)
    ll.detach(model)
    assert (Path(config.out) / PLAIN_NAME).exists() == (method in EXPORTED)
    if method in EXPORTED:
        plain = ll.load(model, Path(config.out) / PLAIN_NAME)
        assert isinstance(plain.spec, ll.LoRA)
        torch.testing.assert_close(model(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "rslora"])
def test_resumed_it_ends_in_the_same_bits(configured: Run, method: str) -> None:
    settings = TWO | {"method": method, "dropout": 0.1, "eval_limit": 0, "save_every": 3} | METHODS[method]
    whole, halves = configured("whole", **settings), configured("halves", **settings)
    ll.train(whole)
    ll.train(halves)
    (RunFolder(Path(halves.out)).checkpoints / "step-00000006.safetensors").unlink()
    ll.train(replace(halves, resume=True))
    one, other = (load_file(Path(each.out) / "adapter_model.safetensors") for each in (whole, halves))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", ["dora", "multilora", "adamix"])
def test_decay_leaves_lengths_and_gates_alone_and_every_b_has_its_rate(configured: Run, method: str) -> None:
    config = configured(method=method, lr=0.1, lora_plus_ratio=16.0, weight_decay=0.01, **TWO)
    groups = prepare(config, "float32").trainee.optimizer.param_groups
    found = {name.rpartition(".")[2]: (each["lr"], each["weight_decay"]) for each in groups for name in each["names"]}
    assert {leaf: rate for leaf, (rate, _) in found.items() if leaf.startswith("lora_B")}.popitem()[1] == 1.6
    assert all(rate == 0.1 for leaf, (rate, _) in found.items() if not leaf.startswith("lora_B"))
    spared = {leaf for leaf, (_, decay) in found.items() if not decay}
    assert spared == {"dora": {"lora_magnitude_vector"}, "multilora": {"lora_scaling"}, "adamix": set()}[method]


def test_a_run_that_begins_anew_has_no_export_of_the_one_before(configured: Run) -> None:
    config = configured(method="multilora", steps=1, eval_limit=0, **TWO)
    ll.train(config)
    assert (Path(config.out) / PLAIN_NAME).is_dir()
    clear(RunFolder(Path(config.out)), "{}")
    assert not (Path(config.out) / PLAIN_NAME).exists()


def test_pissa_on_four_bits_starts_at_a_better_base_than_plain_four_bits(configured: Run) -> None:
    settings = {"method": "pissa", "rank": 8, "quantize": "nf4", "steps": 1, "lr": 1e-9, **TWO}
    loss = {name: ll.train(configured(name, **settings | {"quantize": how})).metrics["loss"] for name, how in (
        ("float", None), ("nf4", "nf4"))}  # fmt: skip
    plain = ll.train(configured("plain", **settings | {"method": "lora"})).metrics["loss"]
    assert abs(loss["nf4"] - loss["float"]) < abs(plain - loss["float"])


def test_the_consistency_loss_is_minimised_but_not_reported(configured: Run) -> None:
    settings = {"dropout": 0.2, "steps": 3, "save_every": 0, "eval_limit": 0, **TWO}
    without = ll.train(configured("without", **settings))
    heavy = ll.train(configured("heavy", **settings | {"consistency": 1000.0}))
    assert heavy.first_loss == pytest.approx(without.first_loss, rel=1e-3)
    trained = [load_file(Path(each.adapter) / "adapter_model.safetensors") for each in (without, heavy)]
    assert any(not torch.equal(trained[0][name], trained[1][name]) for name in trained[0])
