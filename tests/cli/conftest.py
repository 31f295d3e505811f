"""A small real model with a tokenizer of bytes, data, and an adapter trained on them by the command line itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from loralab.cli.main import main

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a random Llama of two narrow blocks."""
    folder = tmp_path_factory.mktemp("tiny")
    tokens = ["<pad>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty prompts and completions as JSONL."""
    path = tmp_path_factory.mktemp("data") / "capitals.jsonl"
    rows = [{"prompt": f"count {number}:", "completion": f" {number + 1}"} for number in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run a verb with --json and return the object on the last line of stdout."""

    def ask(*arguments: object) -> dict[str, Any]:
        assert main([*map(str, arguments), "--json"]) == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return answer

    return ask


@pytest.fixture(scope="session")
def adapter(tiny: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter's folder, trained for three steps."""
    out = tmp_path_factory.mktemp("run") / "adapter"
    flags = {"--model": tiny, "--task": "jsonl", "--data": data, "--out": out, "--rank": 2, "--lr": 0.01}
    arguments = [str(word) for pair in flags.items() for word in pair]
    assert main(["train", *arguments, "--steps", "3", "--batch-size", "4", "--eval-limit", "0"]) == 0
    return out
