"""What this runs on: device, processor, memory; and what keeps the memory of a long run where it was after a few steps.

Text comes in many lengths, and each makes tensors of other sizes: the C library's heap fills with holes, and oneDNN
compiles a product for every shape. Both were more than half of what MiniLM's training held after an epoch.
"""

import ctypes
import gc
import os
import platform
import resource
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch

from loralab.errors import SpecError

DEVICES = {"cuda": "NVIDIA, AMD", "mps": "Apple", "xpu": "Intel", "hpu": "Gaudi", "npu": "Ascend", "xla": "TPU"}
"""What torch, with a package beside it for the last three, calls the accelerators of makers."""


def choose_device(requested: str = "auto") -> torch.device:
    """The device of that name; "auto" is the accelerator that torch finds (CUDA, MPS, XPU, …), else the CPU.

    Raises `SpecError`, in one line, for a name that is no device's and for a device that is not there.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if requested == "auto":
        return torch.device("cpu") if accelerator is None else torch.device(accelerator.type)
    try:
        with warnings.catch_warnings(action="error"):  # a name that torch keeps for its past
            device = torch.device(requested.lower())
        if device.type == "meta":
            raise SpecError("device 'meta' holds no numbers; it is for models that are not computed")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError, UserWarning) as error:
        raise SpecError(f"device {requested!r} {_why_not(requested, accelerator)}") from error
    return device


def _why_not(requested: str, accelerator: torch.device | None) -> str:
    """What is there in the place of a device that is not."""
    kind = requested.lower().partition(":")[0]
    count = 0 if accelerator is None else torch.accelerator.device_count()
    there = ["cpu"] if accelerator is None else ["cpu", *(f"{accelerator.type}:{number}" for number in range(count))]
    if kind in DEVICES:
        return f"is not on this machine, or not in its torch {torch.__version__}: there is {' and '.join(there)}"
    named = ", ".join(f"{name} ({maker})" for name, maker in DEVICES.items())
    return f"is no device's name: write auto, cpu, {named}; here there is {' and '.join(there)}"


def machine() -> dict[str, Any]:
    """The processor, its cores, the threads in use and the accelerator; no host names and no paths."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory used so far: the device's allocations on CUDA, elsewhere the process's resident set.

    Linux hands the usage's peak on from a process to the program that replaces it; the status file begins anew.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line)
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def keep_few_kernels() -> None:
    """Let oneDNN, torch's library for products on a CPU, keep 32 compiled products instead of 1,024.

    Nothing was slower for it. It reads the variable on its first use; one that the user set stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")


def give_back_free_memory() -> None:
    """Return the holes of the C library's heap to the system: milliseconds, where it is glibc's; elsewhere nothing."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def let_threads_go() -> None:
    """End the threads that compute for the thread which calls this; its next product begins others.

    Where libgomp has more threads than the processor runs at once, all of them, also those of other threads, sleep as
    soon as they have nothing to do: waking them made a decoding step half as long again, and that of one row twice.
    """
    pause = getattr(_gomp(), "omp_pause_resource_all", None)
    if pause is not None:
        pause(_SOFTLY)


def collect_only_what_comes() -> None:
    """Have Python's garbage collector look from now on only at what is made from now on.

    It walks all that lives each time that enough has been added: 400,000 objects of torch, transformers and a model, in
    which nothing else runs for 0.2 to 0.4 seconds, so that every answer which is being written stops.
    """
    gc.collect()
    gc.freeze()


_SOFTLY = 1
"""omp_pause_soft."""


@cache
def _gomp() -> ctypes.CDLL | None:
    """The OpenMP that torch has loaded, where it is GNU's."""
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOW | os.RTLD_NOLOAD)
    except OSError:
        return None


@cache
def _malloc_trim() -> Any | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def _processor() -> str:
    if Path("/proc/cpuinfo").is_file():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
