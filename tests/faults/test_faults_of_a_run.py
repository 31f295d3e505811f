"""What goes wrong around a training: another process, a changed file, a full disk, signals, a terminal that is gone."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch import nn

import loralab as ll
from loralab.cli.main import main
from loralab.files.locks import LOCK_NAME, locked
from tiny import write_llama, write_pairs

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and data."""
    folder = tmp_path_factory.mktemp("ground")
    write_llama(folder / "llama")
    write_pairs(folder / "pairs")
    return folder


def words(ground: Path, out: Path, **changes: object) -> list[str]:
    flags = {
        "model": ground / "llama", "task": "jsonl", "data": ground / "pairs", "out": out, "rank": 2, "steps": 2,
        "batch-size": 4, "eval-limit": 0, "dtype": "float32", "device": "cpu", "targets": "q_proj",
    } | {name.replace("_", "-"): value for name, value in changes.items()}  # fmt: skip
    return ["train", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]


def started(arguments: list[str], **how: object) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "loralab", *arguments]
    return subprocess.Popen(command, env=environment, **{"stderr": subprocess.PIPE, **how})


def wait_until(there: Callable[[], object], process: "subprocess.Popen[bytes]") -> None:
    while not there():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


HOLDING = """
import sys, time
from pathlib import Path
from loralab.files.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(1000)
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process holds the folder."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", HOLDING, str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_the_lock_dies_with_the_first(
    ground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with held_elsewhere(tmp_path) as process:
        assert main(words(ground, tmp_path)) == 2
        said = capsys.readouterr().err
        assert f"is in use: process {process.pid} is writing there" in said
        process.kill()
        process.wait()
        assert (tmp_path / LOCK_NAME).exists()
        assert main(words(ground, tmp_path)) == 0
    assert not list(tmp_path.glob(".loralab-*"))


def test_a_lock_is_for_one_thread_again_and_again(tmp_path: Path) -> None:
    with locked(tmp_path), locked(tmp_path):
        assert (tmp_path / LOCK_NAME).read_text() == f"{os.getpid()}\n"
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_a_link_writes_nowhere(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / LOCK_NAME).symlink_to(tmp_path / "mine")
    with pytest.raises(ll.OutputError), locked(tmp_path / "folder"):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("fault", ["changed", "gone"])
def test_data_that_change_are_noticed_by_resume(
    ground: Path, tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_pairs(tmp_path / "pairs")
    file = data if data.is_file() else next(data.rglob("*.jsonl"))
    assert main(words(ground, tmp_path / "run", data=data)) == 0
    before = (tmp_path / "run" / "adapter_model.safetensors").read_bytes()
    if fault == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes().replace(b"a", b"b", 1))
    capsys.readouterr()
    assert main([*words(ground, tmp_path / "run", data=data, steps=4), "--resume"]) == 2
    assert "error: " in capsys.readouterr().err
    assert (tmp_path / "run" / "adapter_model.safetensors").read_bytes() == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk(ground: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = small_disk / "run"
    assert main(words(ground, out)) == 0
    before = {each.name: each.read_bytes() for each in out.iterdir() if each.is_file() and each.name != "run.json"}
    free = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(b"x" * (free.f_bavail * free.f_frsize - 4096))
    capsys.readouterr()
    assert main([*words(ground, out, steps=4), "--resume"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    names = ("adapter_config.json", "adapter_model.safetensors", "loralab.json")
    assert {name: (out / name).read_bytes() for name in names} == {name: before[name] for name in names}
    (small_disk / "ballast").unlink()
    assert main([*words(ground, out, steps=4), "--resume"]) == 0
    assert json.loads((out / "run.json").read_text())["result"]["steps"] == 4


def test_a_folder_that_cannot_be_written(ground: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remounted = subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], capture_output=True, check=False)
    if remounted.returncode:
        pytest.skip("a file system cannot be made read-only here")
    assert main(words(ground, small_disk / "run")) == 2
    assert "Read-only file system" in capsys.readouterr().err


def test_a_folder_that_is_a_mount_point_is_written_in_place(small_disk: Path) -> None:
    adapter = ll.attach(nn.Sequential(nn.Linear(8, 8)), ll.LoRA(rank=2, targets=["0"]))
    for _ in range(2):
        ll.save(adapter, small_disk)
    assert {each.name for each in small_disk.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "loralab.json",
    }  # fmt: skip


def test_the_current_folder_stays_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    adapter = ll.attach(nn.Sequential(nn.Linear(8, 8)), ll.LoRA(rank=2, targets=["0"]))
    for _ in range(2):
        ll.save(adapter, ".")
        assert Path("adapter_config.json").is_file()
    assert os.path.samestat(os.stat("."), tmp_path.stat())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_run_with_a_checkpoint(ground: Path, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "run"
    process = started(words(ground, out, steps=5000, save_every=0))
    wait_until(lambda: (out / "metrics.jsonl").is_file() and (out / "metrics.jsonl").read_text(), process)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == 128 + number
    assert list((out / "checkpoints").glob("step-*.safetensors"))


@pytest.mark.slow
def test_a_terminal_that_goes_away_ends_a_run_with_a_checkpoint(ground: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    mine, theirs = pty.openpty()
    process = started(
        words(ground, out, steps=5000, save_every=0), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    wait_until(lambda: (out / "metrics.jsonl").is_file() and (out / "metrics.jsonl").read_text(), process)
    os.close(mine)  # every print is an EIO from now on
    process.send_signal(signal.SIGHUP)
    assert process.wait() == 128 + signal.SIGHUP
    assert list((out / "checkpoints").glob("step-*.safetensors"))
