"""A Ray cluster that somebody runs: found within seconds or refused, how much it computes at once, and its tasks ended.

It knows nothing of what the tasks do.
"""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from loralab.errors import ProcessError, first_line
from loralab.extras import lazy, require

ray = lazy("ray", "cluster")

TRIES = 4
"""How often a task is given to a worker, where each before was lost."""
PATIENCE = 3.0
"""Seconds between two looks at what a lost worker still holds."""
TURN = 0.5
"""Seconds between two looks at whether this process was asked to stop."""
REACHED_WITHIN = 5.0
"""Seconds for a connection to the head."""
ANSWERED_WITHIN = 30.0
"""Seconds for its answer, most of which Python takes to load Ray; Ray itself would wait for minutes."""


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Within this block this process belongs to the cluster at `address`, or with auto to the one of this machine.

    Raises MissingDependencyError without Ray, ProcessError where no Ray answers there.
    """
    require("cluster", f"--cluster {address}")
    problem = _unreachable(address) or _silent(address)
    if problem is not None:
        raise _no_cluster(address, problem)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        raise _no_cluster(address, first_line(error)) from error
    try:
        yield
    finally:
        ray.shutdown()


def _no_cluster(address: str, problem: str) -> ProcessError:
    return ProcessError(
        f"cluster {address}: no Ray answers there ({problem}); start one with `ray start --head`, give the address "
        "that it names, or leave cluster out"
    )


def _unreachable(address: str) -> str | None:
    """Why nothing can be connected to at HOST:PORT; None where something can, and of other forms of address."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return None if address == "auto" else "an address is HOST:PORT, or auto"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED_WITHIN).close()
    except (OSError, OverflowError) as problem:
        return first_line(problem)
    return None


def _silent(address: str) -> str | None:
    """Why what listens there does not answer as the head of a cluster does; None where it does."""
    if address.startswith("ray://"):
        return None  # a proxy, which `ray status` does not ask
    command = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    try:
        asked = subprocess.run(command, capture_output=True, timeout=ANSWERED_WITHIN, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return f"nothing in {ANSWERED_WITHIN:.0f} s"
    if asked.returncode == 0:
        return None
    said = asked.stderr.decode(errors="replace").strip().splitlines()
    return said[-1].strip(". ") if said else f"`ray status` ended with {asked.returncode}"


def accelerators(device: str) -> int:
    """Of each task: a GPU, where the cluster has any and `device` is not the CPU."""
    return int(device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0)


def at_once(processors: int, gpus: int) -> int:
    """How many tasks of so many processors and GPUs the cluster works at together, at least 1."""
    has = ray.cluster_resources()
    room = [has.get("CPU", 0) // processors, *([has.get("GPU", 0) // gpus] if gpus else [])]
    return max(1, int(min(room)))


@contextmanager
def ended_of(tasks: Iterable[Any], check: Callable[[], None] | None = None) -> Iterator[Iterator[Any]]:
    """Within this block the tasks, each as it ends; left by an error, the others are asked to stop, and waited for.
    `check` is called again and again meanwhile, and may raise."""
    waiting = list(tasks)

    def ended() -> Iterator[Any]:
        nonlocal waiting
        while waiting:
            some, waiting = ray.wait(waiting, num_returns=1, timeout=TURN)
            if check is not None:
                check()
            yield from some

    try:
        yield ended()
    except BaseException:
        _cancel(waiting)
        raise


@contextmanager
def noted_termination() -> Iterator[Callable[[], None]]:
    """Within this block SIGTERM is noted, and what it yields raises SystemExit after one: raised by the handler itself,
    in the middle of Ray, its status would be lost."""
    heard: list[int] = []

    def check() -> None:
        if heard:
            raise SystemExit(128 + heard[0])

    if threading.current_thread() is not threading.main_thread():
        yield check  # only the main thread may say what signals do
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        yield check
    finally:
        signal.signal(signal.SIGTERM, before)


def _cancel(tasks: Sequence[Any]) -> None:
    """All of them are asked before the first is waited for."""
    for task in tasks:
        ray.cancel(task, force=False)
    for task in tasks:
        try:
            ray.get(task)
        except (ray.exceptions.RayError, KeyboardInterrupt):
            continue
