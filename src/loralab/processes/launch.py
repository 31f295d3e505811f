"""Processes on this machine, started by torch's elastic launcher as torchrun starts them, on the loopback interface.

What they all raise is raised here; of one that ends by itself the launcher says which, and ends the others.
"""

import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from loralab.errors import LoralabError, ProcessError
from loralab.processes.place import ProcessPlace

Result = TypeVar("Result")
LOOPBACK = "127.0.0.1"
NOTICED = 0.2
"""Seconds until a process that has ended is noticed."""
FORWARDED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name))


@dataclass(frozen=True)
class Returned:
    """What the work of one process came to."""

    result: Any = None
    error: LoralabError | None = None


class LaunchStopped(BaseException):
    """All processes were ended because this one was asked to stop by signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_in_processes(count: int, work: Callable[..., Result], *arguments: Any) -> Result:
    """What the first process returns. `work` is a function of a module; it and its arguments go to every process.

    Raises the error that they all raise, `ProcessError` where one ended by itself, `LaunchStopped`.
    """
    launch = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint=f"{LOOPBACK}:0", local_addr=LOOPBACK, max_restarts=0, monitor_interval=NOTICED,
    )  # fmt: skip
    with _quiet(), _signals_kept(), _environment(_for_workers(count)):
        try:
            outcomes: Mapping[int, Returned] = elastic_launch(launch, _attempt)(work, *arguments)
        except SignalException as asked:
            raise LaunchStopped(int(asked.sigval)) from None
        except ChildFailedError as failed:
            raise _lost(failed, count) from None
    if outcomes[0].error is not None:
        raise outcomes[0].error
    return outcomes[0].result  # type: ignore[no-any-return]


def _attempt(work: Callable[..., Any], *arguments: Any) -> Returned:
    """In a process of its own: what all know of comes back; what this one alone met ends it, and so the others."""
    try:
        return Returned(work(*arguments))
    except KeyboardInterrupt as stopped:  # its launcher was asked to stop, and takes no results any more
        if ProcessPlace.here().index == 0 and str(stopped):
            print(stopped, file=sys.stderr, flush=True)
        raise
    except LoralabError as error:
        if error.is_known_to_all or error.is_of_a_lost_process:
            return Returned(error=error)
        raise


def _lost(failed: ChildFailedError, count: int) -> Exception:
    """What to say of the process that ended first."""
    index, failure = min(failed.failures.items(), key=lambda each: (each[1].exitcode == -signal.SIGTERM, each[0]))
    message = failure.message if isinstance(failure.message, str) else str(failure.message["message"])
    if failure.exitcode < 0:
        return ProcessError(
            f"process {index} of {count} (number {failure.pid} on this machine) was ended by {_name(failure)}, and the "
            "others with it. The newest checkpoint goes on with --resume; where it was short of memory, with fewer "
            "processes"
        )
    kind, _, said = message.partition(": ")
    if kind.endswith("Error") and issubclass(_errors().get(kind, Exception), LoralabError):
        return ProcessError(f"process {index} of {count}: {said}")
    return RuntimeError(f"process {index} of {count} failed: {message}")


def _errors() -> dict[str, type[Exception]]:
    found: list[type[Exception]] = [LoralabError]
    for kind in found:
        found += kind.__subclasses__()
    return {kind.__name__: kind for kind in found}


def _name(failure: ProcessFailure) -> str:
    return f"signal {-failure.exitcode} ({failure.signal_name()})"


def _for_workers(count: int) -> dict[str, str]:
    """The loopback interface for gloo, and a share of the processor's cores for each."""
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    threads = str(max(1, (os.cpu_count() or 1) // count))
    return {"OMP_NUM_THREADS": threads} | ({"GLOO_SOCKET_IFNAME": names[0]} if names else {})


@contextmanager
def _environment(usual: Mapping[str, str]) -> Iterator[None]:
    """Variables that the user has not set, for the processes that are started within this block."""
    added = {name: value for name, value in usual.items() if name not in os.environ}
    before = set(os.environ)
    os.environ.update(added)
    try:
        yield
    finally:
        for name in set(os.environ) - before:
            del os.environ[name]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the launcher's own words: what it would say is in the error."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]
    before = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in before:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """The launcher sets handlers of its own and leaves them."""
    before = {number: signal.getsignal(number) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
