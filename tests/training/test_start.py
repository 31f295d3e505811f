"""A run that starts from an adapter of another run, on the same task or another."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loralab as ll
from tiny import write_lines

Run = Callable[..., ll.TrainConfig]


@pytest.fixture
def first(classifying: Run) -> ll.TrainConfig:
    config = classifying(epochs=1)
    ll.train(config)
    return config


def test_what_would_be_lost_is_named(classifying: Run, tmp_path: Path) -> None:
    first = classifying(epochs=1, modules_to_save=("classifier", "embeddings.LayerNorm"))
    ll.train(first)
    config = replace(first, out=str(tmp_path / "second"), modules_to_save=None, init_adapter=first.out)
    with pytest.raises(ll.AdapterFileError, match=r"holds bert.embeddings.LayerNorm in full, which this run does not"):
        ll.train(config)


def three_classes(folder: Path) -> Path:
    for split in ("train", "validation"):
        write_lines(folder / f"{split}.jsonl", [{"text": f"it is {i}", "label": "abc"[i % 3]} for i in range(12)])
    return folder


def started(config: ll.TrainConfig, folder: str) -> dict[str, torch.Tensor]:
    """The adapter after one step so small that nothing moved."""
    ll.train(replace(config, out=folder, epochs=None, steps=1, lr=1e-30, eval_limit=0))
    return load_file(Path(folder) / "adapter_model.safetensors")


def test_the_values_are_taken_over_head_and_all(first: ll.TrainConfig, tmp_path: Path) -> None:
    before = load_file(Path(first.out) / "adapter_model.safetensors")
    after = started(replace(first, init_adapter=first.out, seed=7), str(tmp_path / "second"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(tensor.any() for name, tensor in before.items() if "lora_B" in name)


def test_a_head_of_another_size_starts_afresh(first: ll.TrainConfig, tmp_path: Path) -> None:
    data = str(three_classes(tmp_path / "three"))
    after = started(replace(first, init_adapter=first.out, data=data), str(tmp_path / "second"))
    before = load_file(Path(first.out) / "adapter_model.safetensors")
    head = {name for name in after if "classifier" in name}
    assert {tuple(after[name].shape) for name in head} == {(3, 32), (3,)}
    assert all(torch.equal(before[name], after[name]) for name in after.keys() - head)


def test_without_a_record_the_heads_size_is_read_from_the_file(first: ll.TrainConfig, tmp_path: Path) -> None:
    (Path(first.out) / "run.json").unlink()
    data = str(three_classes(tmp_path / "three"))
    assert started(replace(first, init_adapter=first.out, data=data), str(tmp_path / "second"))


@pytest.mark.parametrize(
    "changes, error, problem",
    [
        ({"rank": 3, "alpha": 24.0}, ll.AdapterFileError, r"has rank 2 at .*, this run 3; give the same rank"),
        ({"alpha": 8.0}, ll.SpecError, r"scales its update of .* by 8, this run by 4: .* give the same alpha"),
        (
            {"targets": "query"},
            ll.AdapterFileError,
            r"adapts 4 weights, this run 2: it adapts .* give the same targets",
        ),
        ({"init_adapter": "none"}, ll.NotFoundError, "there is no such adapter"),
    ],
)
def test_an_adapter_that_does_not_fit(first: ll.TrainConfig, tmp_path: Path, changes, error, problem) -> None:
    config = replace(first, out=str(tmp_path / "second"), **{"init_adapter": first.out} | changes)
    with pytest.raises(error, match=problem):
        ll.train(config)
    assert not (tmp_path / "second").exists()
