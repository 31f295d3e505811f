"""BART begins every text with <s>, which `generate` forces: what is trained must stand behind it too."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

import loralab as ll
from loralab.evaluation.evaluate import evaluate
from loralab.generation.config import GenerationConfig
from loralab.models.load import load_model
from loralab.tasks.table import open_task
from tiny import byte_tokenizer

PAIRS = [("first", "one two"), ("second", "three"), ("third", "a four")]


def write_bart(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    config = BartConfig(
        vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, bos_token_id=tokenizer.bos_token_id, d_model=32,
        decoder_start_token_id=1, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=64, forced_eos_token_id=None,
    )  # fmt: skip
    model = BartForConditionalGeneration(config)
    model.generation_config.forced_bos_token_id = tokenizer.bos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_data(folder: Path) -> Path:
    folder.mkdir()
    rows = "".join(json.dumps({"prompt": prompt, "completion": text}) + "\n" for prompt, text in PAIRS * 8)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(rows)
    return folder


def test_what_was_learned_is_what_is_written(tmp_path: Path) -> None:
    model, data = str(write_bart(tmp_path / "bart")), str(write_data(tmp_path / "data"))
    result = ll.train(
        ll.TrainConfig(
            model=model, task="jsonl", data=data, out=str(tmp_path / "run"), method="full", steps=60, batch_size=8,
            lr=1e-2, warmup=0.0, schedule="constant", dtype="float32", device="cpu", eval_limit=3,
        )
    )  # fmt: skip
    assert result.metrics["loss"] < 0.1
    loaded = load_model(model, kind="generation", dtype="float32")
    ll.load(loaded.model, tmp_path / "run")
    found = evaluate(
        loaded.model, loaded.tokenizer, open_task("jsonl", data), "test", limit=3, generate=True,
        generation=GenerationConfig(12),
    )  # fmt: skip
    assert found.outputs == tuple(text for _, text in PAIRS)
    assert found.metrics["rouge_l"] == pytest.approx(100)
    assert found.loss == pytest.approx(result.metrics["loss"], rel=1e-3)
