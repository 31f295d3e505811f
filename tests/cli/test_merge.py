"""`loralab merge`: the answer's keys, what is written, and what wrong input gets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from loralab.cli.main import main

Ask = Callable[..., dict[str, Any]]
KEYS = {"out", "tensors", "max_abs_logit_error", "mean_kl", "argmax_agreement", "tolerance", "adapter_effect"}


def test_the_answer_and_the_folder(tiny: Path, adapter: Path, tmp_path: Path, ask: Ask) -> None:
    answer = ask("merge", "--model", tiny, "--adapter", adapter, "--out", tmp_path / "merged")
    assert answer.keys() == KEYS
    assert 0 <= answer["max_abs_logit_error"] <= answer["tolerance"] < answer["adapter_effect"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("a")["input_ids"]


def test_tensors_alone_give_the_same_files(tiny: Path, adapter: Path, tmp_path: Path, ask: Ask) -> None:
    flags = ["--model", tiny, "--adapter", adapter, "--dtype", "bfloat16"]
    answer = ask("merge", *flags, "--out", tmp_path / "a", "--verify", "tensors")
    assert answer.keys() == KEYS
    assert answer["tensors"] == 4
    assert answer["tolerance"] is None
    ask("merge", "--model", tiny, "--adapter", adapter, "--out", tmp_path / "b")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_occupied_folder_is_left_alone(
    tiny: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["merge", "--model", str(tiny), "--adapter", str(adapter), "--out", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_an_adapter_of_another_base_is_refused(
    tiny: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny)
    model.model.layers[0].self_attn.q_proj.weight.data.neg_()
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "other")
    flags = ["--model", str(tmp_path / "other"), "--adapter", str(adapter), "--out", str(tmp_path / "out")]
    assert main(["merge", *flags]) == 2
    assert "another base model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["merge", *flags, "--allow-other-base"]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
