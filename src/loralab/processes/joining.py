"""How a process finds the others of its run: by what torchrun, or another launcher, says in its environment."""

import itertools
import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import torch
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous

from loralab.errors import LoralabError, ProcessError, SpecError, first_line
from loralab.processes.group import ALONE, Processes
from loralab.processes.place import ProcessPlace

PATIENCE = timedelta(minutes=5)
"""For the others to come."""
GRACE = 3.0
"""Seconds that a process outlives one that has gone, so that their launcher sees which one was the first."""
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
"""By the device that trains: what carries its tensors, and in any case objects."""

_MEETINGS = itertools.count()
"""Of this process. A launcher's store keeps the addresses of those that it started before: each meeting has its own."""


@contextmanager
def joined(device: str = "auto", patience: timedelta = PATIENCE) -> Iterator[Processes]:
    """Within this block the processes of the run work together; a process on its own is `ALONE`.

    Each takes the accelerator of its number on its machine. Raises `ProcessError` where the others do not come, and
    `SpecError` for a device on which several processes do not work. A group that is there already is used as it is.
    """
    place = ProcessPlace.here()
    if place.count == 1:
        yield ALONE
        return
    if place.index >= place.count:
        raise SpecError(
            f"the environment has RANK={place.index} and WORLD_SIZE={place.count}: ranks are counted from 0; start the "
            "processes with torchrun, or unset both"
        )
    kind = _take_device(device, place)
    if dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size(), kind)
        return
    _meet(place, kind, patience)
    try:
        with nullcontext() if place.index == 0 else _silent():
            yield Processes(place.index, place.count, kind)
    except LoralabError as problem:
        if problem.is_known_to_all is None:
            problem.is_known_to_all = False
        if problem.is_of_a_lost_process:
            time.sleep(GRACE)
        raise
    finally:
        dist.destroy_process_group()


@contextmanager
def _silent() -> Iterator[None]:
    """Without the warnings of libraries, which the first process shows as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _meet(place: ProcessPlace, kind: str, patience: timedelta) -> None:
    address = f"{os.environ.get('MASTER_ADDR', 'no MASTER_ADDR')}:{os.environ.get('MASTER_PORT', 'no MASTER_PORT')}"
    try:
        found, index, count = next(rendezvous("env://", timeout=_for_one_try(place, patience)))
        found.set_timeout(patience)
        meeting = f"loralab/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{next(_MEETINGS)}"
        store = dist.PrefixStore(meeting, found)  # type: ignore[attr-defined]
        dist.init_process_group(BACKENDS[kind], store=store, rank=index, world_size=count, timeout=patience)
        dist.barrier()
    except (RuntimeError, ValueError) as problem:
        error = ProcessError(
            f"process {place.index} of {place.count} did not meet the others at {address} within "
            f"{patience.total_seconds():.0f} s: {first_line(problem)}. See that all were started, with the same "
            "MASTER_ADDR and a MASTER_PORT that nobody else uses"
        )
        if place.index and isinstance(problem, dist.DistNetworkError):
            error.is_known_to_all = False  # the first process was not found, so it says nothing of this
        raise error from problem


def _for_one_try(place: ProcessPlace, patience: timedelta) -> timedelta:
    """For torch, which tries twice to reach the first process."""
    return patience / 2 if place.index else patience


def _take_device(device: str, place: ProcessPlace) -> str:
    """The kind of device that this process trains on; of several the one of its number becomes torch's current one."""
    found = torch.accelerator.current_accelerator(check_available=True)
    kind = ("cpu" if found is None else found.type) if device == "auto" else device.lower().partition(":")[0]
    if kind not in BACKENDS or ":" in device:
        raise SpecError(
            f"device {device} and {place.count} processes: each takes the CUDA device of its number, or all compute on "
            "the CPU; give device auto, cuda or cpu"
        )
    if kind == "cuda":
        if torch.cuda.device_count() <= place.local_index:
            raise SpecError(
                f"{place.count} processes: process {place.index} needs the CUDA device {place.local_index} of its "
                f"machine, which has {torch.cuda.device_count()}; start no more processes than there are devices"
            )
        torch.cuda.set_device(place.local_index)
    return kind
