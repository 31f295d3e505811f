"""The settings that PEFT gets name exactly the adapted modules, and what only the model knows."""

import json
from pathlib import Path

import pytest
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

import loralab as ll
from loralab.formats.peft.writing import base_name, shortest_names

THERE = ["lin", "body", "body.0", "body.0.q", "body.0.k", "body.1", "body.1.q", "body.1.k", "body.1.lin"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["body.0.q", "body.1.q"], ("q",)),
        (["body.0.q"], ("body.0.q",)),
        (["body.0.q", "body.1.q", "body.0.k"], ("q", "body.0.k")),
        (["body.1.lin"], ("body.1.lin",)),
        (["lin"], "lin"),
        (["lin", "body.1.lin"], ("lin",)),
        (["lin", "body.0.k"], r"lin|body\.0\.k"),
    ],
)
def test_names_of_exactly_these_modules(paths: list[str], names: str | tuple[str, ...]) -> None:
    assert shortest_names(paths, THERE) == names


def config_of(model: nn.Module, folder: Path, spec: ll.LoRA, with_model: bool = True) -> dict[str, object]:
    ll.save(ll.attach(model, spec), folder, model=model if with_model else None)
    content: dict[str, object] = json.loads((folder / "adapter_config.json").read_text())
    return content


def gpt2() -> GPT2LMHeadModel:
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=32, n_embd=8, n_layer=2, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0)
    )
    model.config._name_or_path = "some/gpt2"
    return model


def test_what_the_model_says_about_itself(tmp_path: Path) -> None:
    content = config_of(gpt2(), tmp_path, ll.LoRA(rank=2, alpha=4))
    expected = {
        "base_model_name_or_path": "some/gpt2",
        "task_type": "CAUSAL_LM",
        "target_modules": ["c_attn"],
        "fan_in_fan_out": True,
        "r": 4,
        "lora_alpha": 8,
    }
    assert expected.items() <= content.items()


def test_without_the_model_paths_are_whole_and_the_rest_is_left_out(tmp_path: Path) -> None:
    content = config_of(gpt2(), tmp_path, ll.LoRA(rank=2), with_model=False)
    assert content["target_modules"] == [f"transformer.h.{layer}.attn.c_attn" for layer in (0, 1)]
    assert content["task_type"] is content["base_model_name_or_path"] is None


@pytest.mark.parametrize(("heads", "task"), [(None, "SEQ_CLS"), ([], None)])
def test_a_task_for_which_peft_expects_a_head_needs_that_head(
    tmp_path: Path, heads: list[str] | None, task: str | None
) -> None:
    config = BertConfig(
        vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )  # fmt: skip
    spec = ll.LoRA(rank=2, targets=["query"], modules_to_save=heads)
    content = config_of(BertForSequenceClassification(config), tmp_path, spec)
    assert content["task_type"] == task
    assert content["modules_to_save"] == (["classifier"] if task else None)


def test_patterns_name_what_differs(tmp_path: Path) -> None:
    spec = ll.LoRA(
        rank=2, alpha=4, targets=["c_attn", "c_fc"], rank_pattern={"0.attn.c_attn": 3}, alpha_pattern={"c_fc": 1.5}
    )
    content = config_of(gpt2(), tmp_path, spec)
    assert content["rank_pattern"] == {r"^transformer\.h\.0\.attn\.c_attn": 3}
    assert set(content["alpha_pattern"].values()) in ({1.5}, {4})  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["smollm2-135m", "minilm-l6", "some/gpt2", "/data/a model"])
def test_an_embedded_model_is_recorded_by_the_id_that_everybody_knows_it_by(name: str) -> None:
    model = gpt2()
    model.name_or_path = name
    known = {
        "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "minilm-l6": "sentence-transformers/all-MiniLM-L6-v2",
    }
    assert base_name(model) == known.get(name, name)
