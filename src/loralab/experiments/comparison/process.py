"""One cell as a process of its own, so that its peak memory is its own: `python -m loralab train`, new or resumed.

What counts parameters has one too, so that this process never loads torch or a model. It stays small for a reason: on
Linux a process begins with the peak memory of the one that started it, and every training reports its peak.
"""

import importlib
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from loralab.experiments.comparison.cells import Cell, Setting, as_toml
from loralab.experiments.comparison.config import CompareConfig
from loralab.experiments.comparison.folder import note_process
from loralab.files.whole import write_text
from loralab.training.folder import RunFolder

STOPPED = {130: signal.SIGINT, 143: signal.SIGTERM, -signal.SIGINT: signal.SIGINT, -signal.SIGTERM: signal.SIGTERM}
"""The exit status of a training that was asked to stop → by what."""
AGAIN = "stopped; the same command goes on where the training stopped"
TURN = 0.5
"""Seconds."""
_LONGEST_MESSAGE = 2000


@dataclass(frozen=True)
class Outcome:
    """What came of a cell: the result that its run.json has, or why there is none."""

    cell: Cell
    result: dict[str, Any] | None
    failure: str | None = None


def finished(cell: Cell) -> Outcome | None:
    """The outcome of a cell that ended well before, or None."""
    record = _record(cell)
    return Outcome(cell, record["result"]) if record is not None and "result" in record else None


def run_cell(cell: Cell, lock: int, may_be_cancelled: bool = False) -> Outcome:
    """Train the cell in a process that shares the lock, and wait for it: in short turns, where a scheduler may raise
    KeyboardInterrupt between two instructions of Python and not by a signal.

    Raises KeyboardInterrupt or SystemExit if it is asked to stop, here or there; the same comparison then goes on with
    its checkpoint.
    """
    how = _how_to_start(cell)
    settings, log = cell.folder.parent / f"{cell.name}.toml", cell.folder.parent / f"{cell.name}.log"
    write_text(settings, as_toml(cell.config))
    command = [sys.executable, "-m", "loralab", "train", "--config", str(settings), "--json", *how]
    with log.open("wb") as stream, _ended_by_termination():
        with _nothing_blocked():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                process_group=0,
            )
        note_process(lock, process.pid)
        status = _wait(process, TURN if may_be_cancelled else None)
    if status in STOPPED:
        raise KeyboardInterrupt(AGAIN)
    outcome = finished(cell) if status == 0 else None
    return outcome or Outcome(cell, None, _complaint(log, status))


def _how_to_start(cell: Cell) -> list[str]:
    """Go on where there is a checkpoint of this very run; what else is in the cell's folder is begun anew."""
    record, folder = _record(cell), RunFolder(cell.folder)
    if record is None:
        shutil.rmtree(cell.folder, ignore_errors=True)
        return []
    here = record["config"].get("out") == cell.config.out
    return ["--resume"] if here and any(folder.checkpoints.glob("step-*.safetensors")) else ["--overwrite"]


def _record(cell: Cell) -> dict[str, Any] | None:
    folder = RunFolder(cell.folder)
    return folder.read_record() if folder.record.is_file() else None


@contextmanager
def _nothing_blocked() -> Iterator[None]:
    """A process begun within this block hears every signal: it inherits what is blocked, as Ray blocks SIGINT in its
    workers, and would train on to the end."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPED.values())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _ended_by_termination() -> Iterator[None]:
    """SIGTERM unwinds this process as an error does, so that the training ends with it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait(process: subprocess.Popen[bytes], turn: float | None) -> int:
    """Its exit status. A request to stop is passed on once, for a checkpoint; the second kills it.

    It is in a process group of its own, so that a terminal's Ctrl-C does not reach it a second time.
    """
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(turn)
    except KeyboardInterrupt:
        _end(process, signal.SIGINT)
        raise KeyboardInterrupt(AGAIN) from None
    except SystemExit:
        _end(process, signal.SIGTERM)
        raise
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    print("stopping: the training writes a checkpoint after its step (once more kills it)", file=sys.stderr, flush=True)
    process.send_signal(number)
    process.wait()


def _complaint(log: Path, status: int) -> str:
    """What the training said was wrong: its `error: …`, else its last line."""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}; what it said is in {log}"
    text = log.read_text(encoding="utf-8", errors="replace")
    _, marker, message = text.rpartition("\nerror: ") if not text.startswith("error: ") else ("", "error", text[7:])
    if marker and status == 2:
        return message.strip()[:_LONGEST_MESSAGE]
    lines = [line for line in text.splitlines() if line.strip()]
    return f"{lines[-1].strip() if lines else 'it said nothing'} (exit status {status}; all of it is in {log})"


def settings_of_equal_budget(config: CompareConfig, settings: list[Setting]) -> list[Setting]:
    """What `budget.matched_settings` gives, from another process; its errors are raised here."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_count, config, settings).result()


def _count(config: CompareConfig, settings: list[Setting]) -> list[Setting]:
    with redirect_stdout(sys.stderr):  # stdout holds the answer alone
        counting = importlib.import_module("loralab.experiments.comparison.budget")
        matched: list[Setting] = counting.matched_settings(config, settings)
        return matched
