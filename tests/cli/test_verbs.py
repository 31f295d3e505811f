"""The verbs end to end on a small model: their JSON, their files, and what they say to wrong input."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM

from loralab.cli.main import main
from loralab.cli.verbs.generate import prompts_from_stdin

Ask = Callable[..., dict[str, Any]]


def test_train(tiny: Path, data: Path, tmp_path: Path, ask: Ask) -> None:
    out = tmp_path / "adapter"
    answer = ask("train", "--model", tiny, "--task", "jsonl", "--data", data, "--out", out, "--rank", 2, "--steps", 2)
    assert answer["adapter"] == str(out)
    assert answer["steps"] == 2
    assert answer["trainable_params"] == 2 * 2 * ((32 + 32) + (32 + 16))
    expected = {"total_params", "tokens", "tokens_per_second", "seconds", "peak_memory_bytes"}
    assert expected | {"first_loss", "last_loss", "metrics"} <= answer.keys()
    assert (out / "adapter_model.safetensors").is_file()


def test_train_refuses_a_folder_that_holds_another_run(
    tiny: Path, data: Path, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (adapter / "run.json").read_bytes()
    flags = ["--model", str(tiny), "--task", "jsonl", "--data", str(data), "--steps", "1", "--out", str(adapter)]
    assert main(["train", *flags]) == 2
    assert "holds another run" in capsys.readouterr().err
    assert (adapter / "run.json").read_bytes() == before


def test_eval_with_and_without_adapter(tiny: Path, data: Path, adapter: Path, ask: Ask) -> None:
    flags = ["--model", tiny, "--task", "jsonl", "--data", data, "--split", "validation"]
    base = ask("eval", *flags)
    adapted = ask("eval", *flags, "--adapter", adapter, "--generate", "--max-new-tokens", 3)
    assert base.keys() >= {"task", "split", "examples", "loss", "metrics"}
    assert base["examples"] == adapted["examples"] > 0
    assert adapted["loss"] != base["loss"]
    assert "rouge_l" in adapted["metrics"]
    assert len(adapted["samples"]) <= 8


def test_generate_from_a_prompt(tiny: Path, ask: Ask) -> None:
    answer = ask("generate", "--model", tiny, "--prompt", "count 3:", "--max-new-tokens", 4)
    assert [type(completion) for completion in answer["completions"]] == [str]


def test_generate_from_lines_answers_line_by_line(
    tiny: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("count 3:\ncount 4:\n"))
    flags = ["--model", str(tiny), "--adapter", str(adapter), "--max-new-tokens", "4"]
    assert main(["generate", *flags]) == 0
    assert capsys.readouterr().out.count("\n") == 2


def test_generate_without_prompts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["generate", "--model", "anything"]) == 2
    assert "stdin is empty" in capsys.readouterr().err


def test_an_empty_line_is_a_prompt_and_shifts_none(tiny: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask) -> None:
    flags = ["--model", tiny, "--max-new-tokens", 4]
    alone = [ask("generate", *flags, "--prompt", prompt)["completions"][0] for prompt in ("a", "", "b")]
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n\nb\n\n"))
    assert ask("generate", *flags)["completions"] == [*alone, alone[1]]


def test_merge_writes_a_folder_of_its_own(tiny: Path, adapter: Path, tmp_path: Path, ask: Ask) -> None:
    out = tmp_path / "merged"
    answer = ask("merge", "--model", tiny, "--adapter", adapter, "--out", out)
    assert answer["out"] == str(out)
    assert answer["tensors"] == 4
    assert answer["max_abs_logit_error"] <= answer["tolerance"]
    assert answer["argmax_agreement"] == 1.0
    assert answer["mean_kl"] >= 0
    LlamaForCausalLM.from_pretrained(out)


def test_convert_there_and_back(adapter: Path, tmp_path: Path, ask: Ask) -> None:
    file, folder = tmp_path / "a.safetensors", tmp_path / "peft"
    there = ask("convert", adapter, file, "--to", "loralib")
    back = ask("convert", file, folder, "--to", "peft", "--alpha", 16)
    assert (there["dst"], there["tensors"], there["lossless"]) == (str(file), 8, True)
    assert (back["dst"], back["tensors"]) == (str(folder), 8)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 2


def test_inspect(tiny: Path, adapter: Path, ask: Ask) -> None:
    alone, on_model = ask("inspect", adapter), ask("inspect", adapter, "--model", tiny)
    assert (alone["method"].lower(), alone["rank"], alone["alpha"], alone["tensors"]) == ("lora", 2, 16.0, 8)
    assert set(alone) >= {"targets", "delta_norms", "dead_tensors", "base_fingerprint"}
    assert "probe_logit_change" not in alone
    assert on_model["probe_logit_change"] > 0


@pytest.mark.parametrize("verb", ["merge", "eval", "generate"])
def test_an_adapter_that_is_not_there(verb: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needed = {"merge": ["--out", "nowhere/out"], "eval": ["--task", "docstrings"], "generate": ["--prompt", "a"]}
    assert main([verb, "--model", str(tiny), "--adapter", "nowhere/at-all", *needed[verb]]) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"count 1:\ncount \xff:\n", "stdin, line 2: not UTF-8"),
        (b"\xff\xfec\x00", "stdin, line 1: not UTF-8"),
        (b"\xef\xbb\xbf", "stdin is empty"),
    ],
)
def test_bytes_on_stdin_that_are_no_text(
    raw: bytes, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="ascii", errors="surrogateescape"))
    assert main(["generate", "--model", "anything"]) == 2
    assert message in capsys.readouterr().err


def test_stdin_is_utf8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = b"\xef\xbb\xbfna\xc3\xafve\r\n\xe4\xb8\xad"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="ascii"))
    assert prompts_from_stdin() == ["naïve", "中"]


def test_a_prompt_of_bytes_that_are_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--model", "anything", "--prompt", os.fsdecode(b"a\xff")]) == 2
    assert "bytes that are not UTF-8" in capsys.readouterr().err
