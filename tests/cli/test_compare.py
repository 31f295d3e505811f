"""`loralab compare` on a small model, its trainings processes of their own: interrupted, gone on with, failing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from loralab.cli.main import main
from loralab.cli.verbs.compare import VERB
from loralab.experiments.comparison.process import AGAIN

Capsys = pytest.CaptureFixture[str]
STEPS = 150


@dataclass(frozen=True)
class Interrupted:
    """A comparison that was interrupted in its second cell, and the same one after it was gone on with."""

    out: Path
    flags: list[str]
    status: int
    said: str
    left: set[str]
    """Cells that had a result when it was interrupted."""
    written: int
    """When the first cell's result was, in ns."""
    answer: dict[str, Any]


@pytest.fixture(scope="module")
def compared(tiny: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """Two ranks, two seeds: SIGINT to the comparing process alone, then the same command again.

    The training is stopped meanwhile, so that it cannot end well before it is interrupted.
    """
    out = tmp_path_factory.mktemp("compare") / "out"
    flags = [
        "--model", str(tiny), "--task", "jsonl", "--data", str(data), "--out", str(out), "--methods", "lora",
        "--ranks", "1,2", "--seeds", "1,2", "--steps", str(STEPS), "--batch-size", "4", "--eval-limit", "4",
        "--save-every", "5", "--lr", "1e-2",
    ]  # fmt: skip
    process = start(flags)
    wait_for(lambda: any((out / "cells/lora-r1-seed-2/checkpoints").glob("step-*.safetensors")))
    training = int((out / "lock").read_text())
    os.kill(training, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: is_interrupted(training))
    os.kill(training, signal.SIGCONT)
    _, said = process.communicate(timeout=180)
    left = {path.parent.name for path in out.glob("cells/*/run.json") if "result" in json.loads(path.read_text())}
    written = (out / "cells/lora-r1-seed-1/run.json").stat().st_mtime_ns
    again = start(flags)
    answer, _ = again.communicate(timeout=240)
    assert again.returncode == 0
    return Interrupted(out, flags, process.returncode, said, left, written, json.loads(answer.splitlines()[-1]))


def start(flags: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "loralab", "compare", *flags, "--json"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=take_interrupts
    )


def is_interrupted(process: int) -> bool:
    """Whether a process that is stopped will find an interrupt when it goes on."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    pending = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(each >> (signal.SIGINT - 1) & 1 for each in pending)


def take_interrupts() -> None:
    """A shell starts what it puts into the background with interrupts ignored, and everything below inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not happened():
        assert time.monotonic() < deadline, "it did not happen within three minutes"
        time.sleep(0.02)


def test_an_interruption_is_130_and_what_is_finished_stays(compared: Interrupted) -> None:
    assert (compared.status, compared.left) == (130, {"lora-r1-seed-1"})
    assert compared.said.endswith(f"{AGAIN}\n")
    assert "Traceback" not in compared.said


def test_no_finished_cell_is_repeated_and_the_interrupted_one_is_resumed(compared: Interrupted) -> None:
    cells = compared.out / "cells"
    assert (cells / "lora-r1-seed-1/run.json").stat().st_mtime_ns == compared.written
    assert "resumed after step" in (cells / "lora-r1-seed-2.log").read_text()
    for cell in ("lora-r1-seed-1", "lora-r1-seed-2", "lora-r2-seed-1", "lora-r2-seed-2"):
        entries = map(json.loads, (cells / cell / "metrics.jsonl").read_text().splitlines())
        assert [entry["step"] for entry in entries if entry["split"] == "train"] == list(range(1, STEPS + 1))


def test_the_answer(compared: Interrupted) -> None:
    one, two = compared.answer["rows"]
    assert (one["method"], one["rank"], one["seeds"], one["failed"]) == ("lora", 1, [1, 2], [])
    assert (one["trainable_params"], two["trainable_params"]) == (224, 448)
    assert one["metrics"]["loss"]["n"] == len(set(one["metrics"]["loss"]["values"])) == 2
    assert one.keys() >= {"size", "prefix", "infix", "train_examples", "head_params", "tokens_per_second"}
    assert (one["steps"], one["peak_memory_bytes"] > 1e8, one["seconds"] > 0) == (STEPS, True, True)
    held = {claim["name"]: claim["held"] for claim in compared.answer["claims"]}
    assert held["rank-one"] in (True, False)
    assert held["lora-matches-full"] is None


def test_the_files(compared: Interrupted) -> None:
    assert json.loads((compared.out / "results.json").read_text()) == compared.answer
    assert "| lora | r=2 | all | 0.01 | 448 | " in (compared.out / "table.md").read_text()
    assert [Path(path).name for path in compared.answer["plots"]] == ["parameters.png", "ranks.png"]
    for path in compared.answer["plots"]:
        with Image.open(path) as picture:
            assert picture.size[0] >= 900


def test_another_configuration_in_the_same_folder(compared: Interrupted, capsys: Capsys) -> None:
    assert main(["compare", *compared.flags, "--lr", "0.5", "--steps", "9"]) == 2
    said = capsys.readouterr().err
    assert "lr was 0.01 and is 0.5" in said
    assert f"steps was {STEPS} and is 9" in said


def test_a_finished_comparison_is_only_shown(compared: Interrupted, capsys: Capsys) -> None:
    records = [path.stat().st_mtime_ns for path in sorted(compared.out.glob("cells/*/run.json"))]
    assert main(["compare", *compared.flags]) == 0
    assert records == [path.stat().st_mtime_ns for path in sorted(compared.out.glob("cells/*/run.json"))]
    captured = capsys.readouterr()
    assert captured.err.count("finished before") == 4
    folder = str(compared.out)
    assert max(len(line) for line in captured.out.splitlines() if not line.startswith(folder)) <= 80
    assert "A rank as small as 1 is enough: " in captured.out
    assert f"{folder}/table.md" in captured.out


def test_a_termination_ends_the_training_too(tiny: Path, data: Path, tmp_path: Path) -> None:
    flags = ["--model", tiny, "--task", "jsonl", "--data", data, "--methods", "lora", "--steps", 100000, "--seeds", 1]
    process = start([*map(str, flags), "--out", str(tmp_path / "out")])
    log = tmp_path / "out/cells/lora-r8-seed-1.log"
    wait_for(lambda: log.is_file() and "step" in log.read_text())
    training = int((tmp_path / "out/lock").read_text())
    process.terminate()
    process.communicate(timeout=180)
    assert process.returncode == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(training, 0)


def test_a_failed_cell_is_shown_and_ends_in_an_error(tiny: Path, data: Path, tmp_path: Path, capsys: Capsys) -> None:
    flags = ["--model", tiny, "--task", "jsonl", "--data", data, "--methods", "bitfit", "--seeds", 1]
    assert main(["compare", *map(str, flags), "--out", str(tmp_path / "out")]) == 2
    assert "error: 1 of 1 cells failed" in (said := capsys.readouterr().err)
    assert "bitfit-seed-1: bitfit trains biases" in said
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["rows"][0]["failed"][0]["message"].startswith("bitfit trains biases, and this LlamaForCausalLM")
    assert "- bitfit, seed 1: bitfit trains biases" in (tmp_path / "out/table.md").read_text()
    VERB.show(results)
    assert any("bitfit" in line and "failed" in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.slow
def test_others_go_on_after_a_failed_cell_and_a_budget_chooses_sizes(
    tiny: Path, data: Path, tmp_path: Path, capsys: Capsys
) -> None:
    flags = ["--model", tiny, "--task", "jsonl", "--data", data, "--methods", "bitfit,lora,full", "--seeds", 1]
    more = ["--steps", 2, "--match-params", 1000, "--out", tmp_path / "out"]
    assert main(["compare", *map(str, [*flags, *more])]) == 2
    assert "error: 1 of 3 cells failed" in capsys.readouterr().err
    bitfit, lora, full = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert (bitfit["seeds"], lora["seeds"], full["seeds"]) == ([], [1], [1])
    assert (lora["rank"], lora["trainable_params"], full["trainable_params"]) == (4, 896, 32032)
    assert (lora["budget_miss"], full["budget_miss"]) == (pytest.approx(-0.104), pytest.approx(31.032))


@pytest.mark.parametrize(
    "flags, problem",
    [
        (["--methods", "lora,lorra"], "method 'lorra': choose from lora, full"),
        (["--methods", "lora", "--ranks", "0"], "rank 0: at least 1"),
        (["--methods", "lora", "--method", "full"], "unknown flag --method"),
        ([], "--methods is needed"),
    ],
)
def test_wrong_input_starts_nothing(flags: list[str], problem: str, tmp_path: Path, capsys: Capsys) -> None:
    out = tmp_path / "out"
    assert main(["compare", "--model", "m", "--task", "jsonl", "--out", str(out), *flags]) == 2
    assert problem in capsys.readouterr().err
    assert not out.exists()


def test_the_process_that_compares_never_loads_torch() -> None:
    script = (
        "import sys, loralab.experiments.comparison.compare as _; "
        "print([n for n in ('torch', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
