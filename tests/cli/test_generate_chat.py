"""`loralab generate` with an adapter that was trained on messages, and with a model that has a chat template."""

import json
from pathlib import Path

import pytest

from loralab.cli.main import main
from tiny import write_lines, write_llama


def test_prompts_go_through_the_template_where_the_run_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = write_llama(tmp_path / "model", initializer_range=0.5), tmp_path / "talker"
    turns = [{"role": "user", "content": "5 + 12"}, {"role": "assistant", "content": "17"}]
    data = write_lines(tmp_path / "talks.jsonl", [{"messages": turns}] * 8)
    flags = ["--task", "jsonl", "--data", str(data), "--steps", "1", "--out", str(out), "--eval-limit", "0"]
    assert main(["train", "--model", str(model), *flags]) == 0
    assert json.loads((out / "run.json").read_text())["conversations"] is True
    said = {}
    for name, more in {"chat": [], "asked": ["--chat"], "plain": ["--no-chat"]}.items():
        capsys.readouterr()
        asked = ["--prompt", "5 + 12", "--max-new-tokens", "6", *more]
        assert main(["generate", "--model", str(model), "--adapter", str(out), *asked]) == 0
        said[name] = capsys.readouterr()
    assert "was trained on messages" in said["chat"].err
    assert "was trained on messages" not in said["asked"].err
    assert said["chat"].out == said["asked"].out != said["plain"].out


def test_prompts_are_completed_as_they_are_elsewhere_which_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", str(write_llama(tmp_path)), "--prompt", "a", "--max-new-tokens", "2"]
    assert main(["generate", *flags]) == 0
    assert "--chat puts them" in capsys.readouterr().err


def test_chat_without_a_template_is_refused(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--model", str(tiny), "--prompt", "a", "--chat"]) == 2
    assert "no chat template" in capsys.readouterr().err
