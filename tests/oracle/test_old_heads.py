"""Folders of classifiers from before the spring of 2024: the head is in the file, and modules_to_save is null."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, VeraConfig, get_peft_model
from torch import nn

import loralab as ll
from loralab.errors import AdapterFileError
from oracle.case import assert_same, output, peft_loads
from oracle.peft_warnings import silenced

pytestmark = silenced
SMALL = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 64, "pad_token_id": 0, "num_labels": 3,
}  # fmt: skip
DISTIL = {"vocab_size": 32, "dim": 16, "hidden_dim": 16, "n_layers": 1, "n_heads": 2, "pad_token_id": 0}
IDS = {"input_ids": torch.arange(3, 9).view(1, 6)}
Built = tuple[Callable[[], nn.Module], str, str | list[str]]
"""(the model, PEFT's task type, target_modules)"""
CASES: dict[str, Built] = {
    "bert": (lambda: hf.BertForSequenceClassification(hf.BertConfig(**SMALL)), "SEQ_CLS", ["query"]),
    "all-linear": (lambda: hf.BertForSequenceClassification(hf.BertConfig(**SMALL)), "SEQ_CLS", "all-linear"),
    "roberta": (lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**SMALL)), "SEQ_CLS", ["query"]),
    "distilbert, two layers": (
        lambda: hf.DistilBertForSequenceClassification(hf.DistilBertConfig(**DISTIL)),
        "SEQ_CLS",
        ["q_lin"],
    ),
    "llama": (
        lambda: hf.LlamaForSequenceClassification(hf.LlamaConfig(**SMALL, num_key_value_heads=2)),
        "SEQ_CLS",
        ["q_proj"],
    ),
    "tokens": (lambda: hf.BertForTokenClassification(hf.BertConfig(**SMALL)), "TOKEN_CLS", ["query"]),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def old_folder(base: nn.Module, config: Any, folder: Path) -> None:
    """PEFT's folder with a trained head in it, its configuration as PEFT then wrote it."""
    model = get_peft_model(copy.deepcopy(base), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    model.save_pretrained(folder)
    rewrite(folder, modules_to_save=None)


def rewrite(folder: Path, **settings: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@every_case
def test_the_head_in_the_file_is_the_head(tmp_path: Path, case: Built) -> None:
    build, task, targets = case
    base = build().eval()
    old_folder(base, LoraConfig(task_type=task, target_modules=targets, r=2), tmp_path / "old")
    ours = copy.deepcopy(base)
    adapter = ll.load(ours, tmp_path / "old")
    expected = output(peft_loads(base, tmp_path / "old"), IDS)
    assert_same(output(ours, IDS), expected, unlike=output(base, IDS))
    ll.save(adapter, tmp_path / "new", model=ours)
    assert json.loads((tmp_path / "new" / "adapter_config.json").read_text())["modules_to_save"]
    assert_same(output(peft_loads(base, tmp_path / "new"), IDS), expected, unlike=output(base, IDS))


def test_the_same_of_vera(tmp_path: Path) -> None:
    base = CASES["bert"][0]().eval()
    old_folder(base, VeraConfig(task_type="SEQ_CLS", target_modules=["query"], r=2), tmp_path)
    ours = copy.deepcopy(base)
    ll.load(ours, tmp_path)
    assert_same(output(ours, IDS), output(peft_loads(base, tmp_path), IDS), unlike=output(base, IDS))


def test_a_head_that_only_the_task_implies_may_be_the_bases_own(tmp_path: Path) -> None:
    base = CASES["bert"][0]().eval()
    old_folder(base, LoraConfig(target_modules=["value", "output.dense"], r=2), tmp_path)
    expected = output(peft_loads(base, tmp_path), IDS)
    rewrite(tmp_path, task_type="SEQ_CLS")
    ours = copy.deepcopy(base)
    ll.load(ours, tmp_path)
    assert_same(output(ours, IDS), expected, unlike=output(base, IDS))


def test_a_head_that_is_named_must_be_there(tmp_path: Path) -> None:
    base = CASES["bert"][0]().eval()
    old_folder(base, LoraConfig(target_modules=["query"], r=2), tmp_path)
    rewrite(tmp_path, task_type="SEQ_CLS", modules_to_save=["classifier"])
    with pytest.raises(AdapterFileError, match=r"classifier\.weight"):
        ll.load(base, tmp_path)
