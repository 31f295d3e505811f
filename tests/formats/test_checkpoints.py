"""A run's checkpoints used as adapters: by word, by step, by path, of a run that did not end, of every method."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import loralab as ll
from loralab.cli.main import main
from loralab.formats.checkpoints import checkpoint_folder
from loralab.models.load import load_model
from tiny import write_bert, write_labels, write_llama, write_pairs

Configure = Callable[..., ll.TrainConfig]
METHODS: list[dict[str, Any]] = [
    {"method": "lora"},
    {"method": "dora"},
    {"method": "pissa"},
    {"method": "vera"},
    {"method": "adamix"},
    {"method": "full"},
    {"method": "prefix-embed"},
    {"method": "prefix-layer"},
    {"method": "adapter-h"},
    {"method": "galore"},
    {"method": "lora+prefix-embed"},
]


@pytest.fixture
def configured(tmp_path: Path) -> Configure:
    model, data = write_llama(tmp_path / "llama"), write_pairs(tmp_path / "pairs")

    def configure(**changes: Any) -> ll.TrainConfig:
        defaults = {
            "model": str(model), "task": "jsonl", "data": str(data), "out": str(tmp_path / "run"), "steps": 2,
            "save_every": 1, "keep": 5, "batch_size": 8, "lr": 1e-2, "eval_limit": 0, "dtype": "float32",
            "device": "cpu",
        }  # fmt: skip
        return ll.TrainConfig(**defaults | changes)

    return configure


@pytest.fixture
def unfinished(configured: Configure) -> ll.TrainConfig:
    """A run that was killed after its second checkpoint, with a best one."""
    config = configured(eval_every=1, eval_limit=4, samples=0)
    ll.train(config)
    for name in ("adapter_config.json", "adapter_model.safetensors", "loralab.json"):
        Path(config.out, name).unlink()
    return config


@pytest.mark.parametrize("method", METHODS, ids=lambda each: each["method"])
def test_the_last_checkpoint_of_every_method_is_what_the_run_ended_with(
    configured: Configure, method: dict[str, Any]
) -> None:
    config = configured(**method)
    ll.train(config)
    one, two = (checkpoint_folder(config.out, step) for step in (1, 2))
    saved = load_file(Path(config.out, "adapter_model.safetensors"))
    before, last = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    assert all(torch.equal(last[name], saved[name]) for name in saved)
    assert any(not torch.equal(before[name], saved[name]) for name in saved)
    adapter = ll.load(load_model(config.model, dtype="float32", device="cpu").model, config.out, checkpoint=1)
    assert adapter.name == "run"


def test_a_classifiers_head_is_in_its_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    data = str(write_labels(tmp_path / "labels"))
    shared = {"model": str(write_bert(tmp_path / "bert")), "task": "jsonl", "data": data, "dtype": "float32"}
    ll.train(ll.TrainConfig(**shared, out=out, steps=2, save_every=1, eval_limit=0, device="cpu"))
    names = load_file(checkpoint_folder(out, "last") / "adapter_model.safetensors")
    assert any("classifier" in name for name in names)
    assert main(["eval", "--model", shared["model"], "--adapter", out, "--checkpoint", "1", "--task", "jsonl",
                 "--data", data, "--split", "validation"]) == 0  # fmt: skip
    said = capsys.readouterr().err
    assert "of the adapter: " in said, "it is not fresh: the adapter holds it"


@pytest.mark.parametrize("word", ["best", "last", "1"])
def test_every_verb_takes_a_checkpoint(unfinished: ll.TrainConfig, word: str, tmp_path: Path) -> None:
    model = ["--model", unfinished.model]
    named = ["--adapter", unfinished.out, "--checkpoint", word]
    assert main(["generate", *model, *named, "--prompt", "say a:", "--max-new-tokens", "2"]) == 0
    assert main(["inspect", unfinished.out, "--checkpoint", word, *model]) == 0
    assert main(["merge", *model, *named, "--out", str(tmp_path / "merged"), "--verify", "tensors"]) == 0
    assert main(["convert", unfinished.out, str(tmp_path / "peft"), "--to", "peft", "--checkpoint", word]) == 0
    resize = ["resize", unfinished.out, "--checkpoint", word, "--rank", "2", "--out", str(tmp_path / "two")]
    assert main(["analyse", *resize]) == 0
    assert main(["analyse", "doctor", unfinished.out, "--checkpoint", word]) == 0
    spectrum = ["spectrum", unfinished.out, "--checkpoint", word, "--out", str(tmp_path / "spectrum")]
    assert main(["analyse", *spectrum]) == 0


def test_an_unfinished_run_says_what_it_has(unfinished: ll.TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--model", unfinished.model, "--adapter", unfinished.out, "--prompt", "a"]) == 2
    said = capsys.readouterr().err
    assert "did not end" in said
    assert "best, last, 1, 2" in said
    with pytest.raises(ll.NotFoundError, match='checkpoint="last"'):
        ll.load(load_model(unfinished.model).model, unfinished.out)


def test_a_checkpoints_file_is_no_adapter_and_says_where_that_is(unfinished: ll.TrainConfig) -> None:
    file = Path(unfinished.out, "checkpoints", "step-00000002.safetensors")
    with pytest.raises(ll.AdapterFileError, match=r"its adapter is the folder .*step-00000002"):
        ll.load(load_model(unfinished.model).model, file)
    ll.load(load_model(unfinished.model).model, file.with_suffix(""))


def test_words_that_name_no_checkpoint(unfinished: ll.TrainConfig, tmp_path: Path) -> None:
    for word in ("newest", "7"):
        with pytest.raises(ll.SpecError, match=f"checkpoint {word} .* best, last, 1, 2"):
            checkpoint_folder(unfinished.out, word)
    with pytest.raises(ll.NotFoundError, match="it holds no checkpoint"):
        checkpoint_folder(tmp_path, "last")
    for folder in Path(unfinished.out, "checkpoints").iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    with pytest.raises(ll.NotFoundError, match="an earlier version wrote its checkpoints"):
        checkpoint_folder(unfinished.out, "last")


def test_the_last_is_the_newest_of_several(tmp_path: Path) -> None:
    for step in (40, 100, 8):
        place = tmp_path / "checkpoints" / f"step-{step:08d}"
        place.mkdir(parents=True)
        (place / "adapter_config.json").write_text("{}")
    assert checkpoint_folder(tmp_path, "last").name == "step-00000100"
    assert checkpoint_folder(tmp_path, 8).name == "step-00000008"


def test_a_checkpoint_that_is_half_written_is_not_the_last(unfinished: ll.TrainConfig) -> None:
    (checkpoint_folder(unfinished.out, 2) / "adapter_config.json").unlink()
    assert checkpoint_folder(unfinished.out, "last").name == "step-00000001"


def test_old_checkpoints_go_with_their_adapters(configured: Configure) -> None:
    config = configured(steps=3, keep=1)
    ll.train(config)
    assert {each.name for each in Path(config.out, "checkpoints").iterdir()} == {
        "step-00000003", "step-00000003.safetensors",
    }  # fmt: skip


def test_a_run_without_any_checkpoint(configured: Configure) -> None:
    config = configured(save_every=0)
    ll.train(config)
    Path(config.out, "adapter_config.json").unlink()
    Path(config.out, "adapter_model.safetensors").unlink()
    shutil.rmtree(Path(config.out, "checkpoints"), ignore_errors=True)
    with pytest.raises(ll.NotFoundError, match="no checkpoint yet"):
        ll.load(load_model(config.model).model, config.out)
