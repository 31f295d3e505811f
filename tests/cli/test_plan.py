"""`loralab plan` as its users meet it: as a process, with exit status, stdout and stderr."""

import json
import os
import subprocess
import sys

import pytest

GPT3 = ("--model", "gpt3-175b", "--rank", "4", "--targets", "q,v", "--dtype", "float16", "--batch-size", "1")


def plan(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loralab", "plan", *flags]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_json_has_the_contracts_keys() -> None:
    done = plan(*GPT3, "--json")
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert answer["trainable_params"] == 18_874_368
    assert {"total_params", "head_params", "adapter_bytes", "memory", "tasks"} <= answer.keys()
    assert {"weights", "gradients", "optimizer", "activations", "process", "total"} <= answer["memory"].keys()


@pytest.mark.parametrize("flags", [GPT3, ("--model", "deberta-v2-xxlarge", "--method", "lora+prefix-embed")])
def test_people_read_it_in_80_columns(flags: tuple[str, ...]) -> None:
    done = plan(*flags)
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "total" in done.stdout


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--model", "gpt4"), "plan with a preset"),
        (("--model", "llama-2-7b", "--method", "bitfit"), "bitfit"),
        (("--model", "gpt2", "--batch-size", "0", "--tasks", "0"), "tasks 0"),
        (("--model", "gpt2", "--rank", "many"), "--rank"),
    ],
)
def test_wrong_input_is_exit_status_2(flags: tuple[str, ...], words: str) -> None:
    done = plan(*flags)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_verdict_on_a_gpu_is_read_in_80_columns() -> None:
    done = plan("--model", "gpt2", "--gpu-memory", "2GB", "--targets", "all-linear", "--dtype", "float32")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "does NOT fit 2.0 GB" in done.stdout
    assert "train with: --batch-size" in done.stdout.replace("\n  ", " ")
