"""What a system does to a program: too little memory, a reader that leaves, a clock that jumps. Forked children."""

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from loralab.cli.main import main
from tiny import write_lines, write_llama, write_pairs


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ground")
    write_llama(folder / "llama")
    write_pairs(folder / "pairs")
    return folder


def train(ground: Path, out: Path, **changes: object) -> int:
    flags = {
        "model": ground / "llama", "task": "jsonl", "data": ground / "pairs", "out": out, "rank": 2, "steps": 3,
        "batch-size": 4, "eval-limit": 0, "dtype": "float32", "device": "cpu", "targets": "q_proj", "samples": 0,
    } | {name.replace("_", "-"): value for name, value in changes.items()}  # fmt: skip
    return main(["train", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))])


def in_child(action: Callable[[], int], before: Callable[[], object], said: Path) -> tuple[int, str]:
    """The exit status and stderr of what a child does, as Python would end it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sys.stderr = said.open("w", buffering=1)
            before()
            status = action()
            sys.stdout.flush()
        except BaseException as error:  # noqa: BLE001  a fork must never come back
            said.write_text(f"{said.read_text()}Traceback: {type(error).__name__}: {error}")
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.read_text()


def used() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="how much is used cannot be told here")
def test_too_little_memory_is_said(ground: Path, tmp_path: Path) -> None:
    """As `ulimit -v` has it."""

    def limit() -> None:
        most = used() + 192 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    lines = [{"prompt": f"{number} " + "x" * 220, "completion": "y"} for number in range(3000)]
    data = write_lines(tmp_path / "long.jsonl", lines)
    action = lambda: train(ground, tmp_path / "run", data=data, batch_size=2500, max_length=240)  # noqa: E731
    status, said = in_child(action, limit, tmp_path / "said")
    assert status == 2, said
    assert "Traceback" not in said
    assert "memory" in said
    assert "--batch-size" in said
    assert not (tmp_path / "run" / "adapter_config.json").exists()


@pytest.mark.parametrize("which", [pytest.param("stdout", marks=pytest.mark.faults), "both"])
def test_a_reader_that_leaves_ends_nothing(ground: Path, tmp_path: Path, which: str) -> None:
    """`loralab train … | head -1`, and the same with `2>&1`."""

    def leave() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
        sys.stdout = os.fdopen(1, "w")
        if which == "both":
            sys.stderr = os.fdopen(os.dup(writer), "w", buffering=1)

    status, said = in_child(lambda: train(ground, tmp_path / "run"), leave, tmp_path / "said")
    assert "Traceback" not in said
    assert status == 0
    assert (tmp_path / "run" / "adapter_config.json").is_file()


@pytest.mark.faults
def test_a_clock_that_jumps_changes_nothing(ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(ground, tmp_path / "steady") == 0
    jumps = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: 1e9 + (-1) ** next(jumps) * 1e8)
    assert train(ground, tmp_path / "jumping") == 0
    one, other = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("steady", "jumping"))
    assert one == other
