"""`train --init eva`: A from the run's own first batches, and a resumed run goes on with the same ranks."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loralab as ll
from loralab.training import start
from loralab.training.checkpoint import newest_checkpoint
from loralab.training.prepare import prepare

Configure = Callable[..., ll.TrainConfig]
EVA = {"init": "eva", "targets": "q_proj,v_proj,o_proj,down_proj", "eva_rho": 3.0}


def tensors_of(config: ll.TrainConfig) -> dict[str, torch.Tensor]:
    return load_file(Path(config.out) / "adapter_model.safetensors")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_starts_at_the_base_in_ranks_of_its_data_and_learns(configured: Configure) -> None:
    usual, config = configured("usual", steps=6), configured("eva", steps=6, **EVA)
    result, plain = ll.train(config), ll.train(usual)
    assert result.first_loss == pytest.approx(plain.first_loss, abs=1e-6)
    assert result.last_loss < result.first_loss
    content = json.loads((Path(config.out) / "adapter_config.json").read_text())
    ranks = [len(A) for name, A in tensors_of(config).items() if "lora_A" in name]
    assert len(set(ranks)) > 1
    assert set(content["rank_pattern"].values()) <= set(ranks)
    notes = json.loads((Path(config.out) / "run.json").read_text())["notes"]
    assert any(note.startswith("EVA: A from the inputs") for note in notes)


def test_the_limit_of_batches_holds_and_they_are_the_first_of_the_run(configured: Configure) -> None:
    config = configured(**EVA, eva_batches=1)
    prepared = prepare(config, "float32")
    first = prepared.trainee.data.step(1).batches[0]
    note = next(note for note in prepared.notes if note.startswith("EVA: A from"))
    assert f"{first.targets} positions of 1 batches" in note


@pytest.mark.parametrize("extras", [{}, {"method": "lora", "dropout": 0.2, "accumulate": 2}])
def test_n_and_n_steps_are_2n_steps(configured: Configure, extras: dict[str, object]) -> None:
    fixed = {"schedule": "constant", "warmup": 2.0, **EVA, **extras}
    whole, halves = configured("whole", steps=6, **fixed), configured("halves", steps=3, **fixed)
    ll.train(whole)
    ll.train(halves)
    ll.train(replace(halves, steps=6, resume=True))
    assert equal(tensors_of(whole), tensors_of(halves))
    first, second = (newest_checkpoint(Path(config.out) / "checkpoints").tensors for config in (whole, halves))
    assert equal(first, second)


def test_a_resumed_run_needs_no_data_for_its_ranks(configured: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(steps=3, **EVA)
    ll.train(config)
    before = {name: tensor.shape for name, tensor in tensors_of(config).items()}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the data were looked at again")

    monkeypatch.setattr(start, "attach_eva", refuse)
    ll.train(replace(config, steps=5, resume=True))
    assert {name: tensor.shape for name, tensor in tensors_of(config).items()} == before


def test_a_run_killed_before_its_first_checkpoint_starts_the_same_again(configured: Configure) -> None:
    config = configured(steps=3, **EVA)
    ll.train(config)
    first = tensors_of(config)
    shutil.rmtree(Path(config.out) / "checkpoints")
    ll.train(replace(config, resume=True))
    assert equal(tensors_of(config), first)


def test_classifiers_start_so_too(classifying: Configure) -> None:
    config = classifying(init="eva", epochs=None, steps=4)
    ll.train(config)
    assert any("classifier" in name for name in tensors_of(config))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"method": "bitfit"}, "init eva .* method bitfit is none"),
        ({"eva_tau": 2.0}, "eva_tau 2.0"),
        ({"eva_rho": 0.5}, "eva_rho 0.5"),
        ({"eva_batches": 0}, "eva_batches 0"),
        ({"init_adapter": "somewhere"}, "A can start from one of them"),
    ],
)
def test_what_does_not_combine_is_said(configured: Configure, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ll.SpecError, match=said):
        ll.train(configured(**{**EVA, **changes}))
