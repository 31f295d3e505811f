"""How a run of several processes ends before its time: by a signal, by the death of one of them, by bad input; and how
it goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tiny import write_llama, write_pairs

LONG = 300.0
"""Seconds that a loaded machine may take to start and end processes."""
ENDLESS = ("--steps", "1000000", "--save-every", "20")
TORCHRUN = (
    "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0",
    "--local-addr", "127.0.0.1", "--max-restarts", "1", "-m",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ending")
    write_llama(folder / "llama")
    write_pairs(folder / "pairs")
    return folder


def start(place: Path, out: str, *flags: str, under: Sequence[str] = ()) -> "subprocess.Popen[str]":
    """`loralab train` in a session of its own."""
    settings = ("--rank", "2", "--batch-size", "8", "--targets", "q_proj", "--eval-limit", "0", "--device", "cpu")
    what = (
        "--model",
        str(place / "llama"),
        "--task",
        "jsonl",
        "--data",
        str(place / "pairs"),
        "--out",
        str(place / out),
    )
    command = [sys.executable, "-m", *under, "loralab", "train", *what, *settings, *flags]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


def wait_for_step(place: Path, out: str, step: int, process: "subprocess.Popen[str]") -> None:
    journal, deadline = place / out / "metrics.jsonl", time.monotonic() + LONG
    while time.monotonic() < deadline and process.poll() is None:
        lines = journal.read_text().splitlines() if journal.is_file() else []
        if len(lines) >= step:
            return
        time.sleep(0.1)
    pytest.fail(f"no step {step}: {process.communicate(timeout=LONG)}")


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """(its status, what it said), and nothing of it is left."""
    _, said = process.communicate(timeout=LONG)
    deadline = time.monotonic() + LONG
    while left := living_in_session(process.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    return process.returncode, said


def living_in_session(session: int) -> list[str]:
    """The processes of a session that are not only waiting to be buried."""
    found = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, of = each.read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state not in "ZX":
                found.append(each.parent.name)
    return found


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    """The processes that train, by their index."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(each) for each in children if b"resource_tracker" not in Path(f"/proc/{each}/cmdline").read_bytes()]


def steps_saved(place: Path, out: str) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in (place / out / "checkpoints").glob("*.safetensors"))


def steps_made(place: Path, out: str) -> list[int]:
    return [json.loads(line)["step"] for line in (place / out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("from_terminal", [True, False])
def test_a_signal_leaves_a_checkpoint_and_no_process(place: Path, number: signal.Signals, from_terminal: bool) -> None:
    out = f"{number.name} {from_terminal}"
    process = start(place, out, "--steps", "1000000", "--save-every", "0", "--processes", "2")
    wait_for_step(place, out, 3, process)
    if from_terminal:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    status, said = ended(process)
    assert status == 128 + number, said
    assert steps_saved(place, out) == [max(steps_made(place, out))]
    assert said.count("To go on:") == 1
    assert "all 2 processes have ended" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_worker_that_is_killed_is_named_and_the_newest_checkpoint_goes_on(place: Path) -> None:
    process = start(place, "killed", *ENDLESS, "--processes", "2")
    wait_for_step(place, "killed", 25, process)
    os.kill(workers_of(process)[1], signal.SIGKILL)
    killed = time.monotonic()
    status, said = ended(process)
    assert (status, time.monotonic() - killed < 30) == (2, True)
    assert "error: process 1 of 2" in said
    assert "was ended by signal 9 (SIGKILL)" in said
    assert "Traceback" not in said
    last = steps_saved(place, "killed")[-1]
    status, said = ended(start(place, "killed", "--steps", str(last + 4), "--resume", "auto", "--processes", "2"))
    assert status == 0, said
    assert steps_made(place, "killed") == list(range(1, last + 5))


@pytest.mark.slow
def test_torchrun_restarts_a_run_that_goes_on_by_itself(place: Path) -> None:
    flags = ("--steps", "300", "--save-every", "20", "--resume", "auto")
    process = start(place, "restarted", *flags, under=TORCHRUN)
    wait_for_step(place, "restarted", 25, process)
    os.kill(workers_of(process)[1], signal.SIGKILL)
    status, said = ended(process)
    assert status == 0, said
    assert steps_made(place, "restarted") == list(range(1, 301))
    assert "resumed after step" in said


@pytest.mark.slow
def test_what_cannot_be_shared_out_is_one_error(place: Path) -> None:
    few = ("--steps", "2", "--limit", "1", "--processes", "2")
    status, said = ended(start(place, "few", *few))
    assert status == 2, said
    assert said.count("error:") == 1
    assert "2 processes share out the examples of every batch, and the data holds 1" in said
    assert not (place / "few").exists()
    status, said = ended(start(place, "few", *few[:-2], under=TORCHRUN))
    assert status != 0
    assert said.count("error: 2 processes share out") == 2, said  # torchrun starts them once more
