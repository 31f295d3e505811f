"""A fresh head is trained and saved whatever else is; without it nothing is saved, loaded, or called healthy."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    PreTrainedModel,
)

import loralab as ll
from loralab.cli.main import main
from loralab.core.attach import put
from loralab.core.plan import Plan
from loralab.formats.doctor.examine import examine
from loralab.methods.beside import unfilled_tensors
from loralab.methods.registry import specification
from loralab.models.load import load_model
from tiny import SMALL, write_bert, write_images, write_llama, write_vit

Run = Callable[..., ll.TrainConfig]
METHODS = (
    "lora", "dora", "pissa", "lora-fa", "vera", "tied", "multilora", "adamix", "lora-xs", "bitfit", "top2",
    "prefix-embed", "prefix-layer", "adapter-h", "adapter-l", "adapter-p", "adamix-adapter", "grass", "galore",
    "lora+prefix-embed",
)  # fmt: skip


def reloaded(config: ll.TrainConfig, **kind: object) -> PreTrainedModel:
    return load_model(config.model, dtype="float32", device="cpu", seed=99, **kind).model


@pytest.mark.parametrize("method", METHODS)
def test_a_fresh_head_is_part_of_every_method(method: str, classifying: Run) -> None:
    config = classifying(method=method, modules_to_save=("embeddings.LayerNorm",), size=4)
    model = reloaded(config, kind="sequence-classification", labels=["no", "yes"])
    adapter = ll.attach(model, specification(config))
    assert {"classifier.weight", "classifier.bias"} <= {name for name, _ in adapter.named_parameters()}


@pytest.mark.parametrize("method", ["lora", "bitfit"])
def test_it_is_trained_saved_and_loaded(method: str, classifying: Run) -> None:
    config = classifying(method=method, modules_to_save=("embeddings.LayerNorm",), epochs=None, steps=2)
    assert ll.train(config).head_params >= 66
    model = reloaded(config, kind="sequence-classification", labels=["no", "yes"])
    before = {name: each.clone() for name, each in model.named_parameters() if name.startswith("classifier")}
    state = ll.load(model, config.out).state_dict()
    assert all(not torch.equal(state[name], before[name]) for name in before)
    ll.detach(model)
    assert examine(config.out, model).healthy


@pytest.mark.parametrize("names", [(), ("classifier",), ("pooler",), ("pooler.dense", "word_embeddings")])
def test_heads_that_are_named_in_part(names: tuple[str, ...], classifying: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(**SMALL, max_position_embeddings=256, vocab_size=258, pad_token_id=0)
    folder = write_bert(tmp_path / "whole")
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)  # neither pooler nor classifier is there
    run = classifying(model=str(folder), modules_to_save=names, steps=2, epochs=None)
    ll.train(run)
    tensors = load_file(Path(run.out) / "adapter_model.safetensors")
    assert {f"base_model.model.{name}" for name in ("classifier.weight", "bert.pooler.dense.weight")} <= set(tensors)


def test_a_score_a_value_and_a_head_of_images(configured: Run, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": f"it is {i}", "label": i + 0.5}) + "\n" for i in range(12))
    (tmp_path / "values.jsonl").write_text(lines, encoding="utf-8")
    changes = {"targets": "q_proj", "modules_to_save": ("norm",), "steps": 1}
    values = configured(data=str(tmp_path / "values.jsonl"), **changes)
    ll.train(values)
    assert any("score.weight" in name for name in load_file(Path(values.out) / "adapter_model.safetensors"))
    base = AutoModelForImageClassification.from_pretrained(write_vit(tmp_path / "two")).base_model
    base.save_pretrained(tmp_path / "vit")
    images = str(write_images(tmp_path / "images"))
    seen = configured(
        "seen", model=str(tmp_path / "vit"), task="images", data=images, targets="q_proj",
        modules_to_save=("layernorm",), steps=1,
    )  # fmt: skip
    ll.train(seen)
    assert any("classifier.weight" in name for name in load_file(Path(seen.out) / "adapter_model.safetensors"))


def test_a_head_that_the_checkpoint_holds_is_left_alone_if_others_are_named(classifying: Run, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(classifying().model, num_labels=2)
    trained = AutoModelForSequenceClassification.from_config(config)
    folder = write_bert(tmp_path / "trained")
    trained.save_pretrained(folder)
    run = classifying(model=str(folder), modules_to_save=("embeddings.LayerNorm",), steps=1, epochs=None)
    ll.train(run)
    assert not any("classifier" in name for name in load_file(Path(run.out) / "adapter_model.safetensors"))
    assert examine(run.out, reloaded(run, kind="sequence-classification", labels=["no", "yes"])).healthy


def headless(model: nn.Module) -> ll.Adapter:
    """An adapter that leaves a fresh head out, as earlier versions made them."""
    whole = ll.attach(model, ll.LoRA(rank=2, modules_to_save=()), name="whole")
    updates = {path: update for path, update in whole.updates.items() if len(update.parts)}
    ll.detach(model)
    return put(model, Plan(updates), whole.spec, "headless")


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_saving_without_the_fresh_head_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    folder = (write_bert if kind == "bert" else write_llama)(tmp_path / kind)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    name = "classifier.weight" if kind == "bert" else "score.weight"
    assert name in unfilled_tensors(model)
    with pytest.raises(ll.AdapterStateError, match=name):
        ll.save(headless(model), tmp_path / "a", model=model)
    assert not (tmp_path / "a").exists()


def test_a_folder_without_its_head_is_neither_loaded_nor_healthy(classifying: Run, capsys) -> None:
    config = classifying(steps=2, epochs=None)
    ll.train(config)
    behead(Path(config.out))
    assert [each.where for each in errors(config.out)] == ["run.json"]
    model = reloaded(config, kind="sequence-classification", labels=["no", "yes"])
    assert {"run.json", "base model"} <= {each.where for each in errors(config.out, model)}
    with pytest.raises(ll.AdapterStateError, match=r"classifier\.weight.*allow_random_head"):
        ll.load(model, config.out)
    ll.load(model, config.out, allow_random_head=True)
    told = ["--model", config.model, "--adapter", config.out, "--task", "jsonl", "--data", config.data]
    assert main(["eval", *told, "--split", "validation"]) == 2
    assert "classifier.weight" in capsys.readouterr().err


def test_a_run_may_start_from_an_adapter_without_a_head(classifying: Run, tmp_path: Path) -> None:
    first = classifying(steps=2, epochs=None)
    ll.train(first)
    behead(Path(first.out))
    second = replace(first, out=str(tmp_path / "second"), init_adapter=first.out, modules_to_save=())
    ll.train(second)
    assert any("classifier" in name for name in load_file(Path(second.out) / "adapter_model.safetensors"))


def errors(folder: str, model: PreTrainedModel | None = None) -> list[object]:
    return [each for each in examine(folder, model).findings if each.severity == "error"]


def behead(folder: Path) -> None:
    """Take the head out of a folder, and what says that it was there."""
    path = folder / "adapter_model.safetensors"
    save_file({name: each for name, each in load_file(path).items() if "classifier" not in name}, path)
    (folder / "loralab.json").unlink()
    content = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps(content | {"modules_to_save": None, "task_type": None}))
