"""run.json: the configuration, the versions, the machine, and what came of it."""

import json
import os
import platform
import resource
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from loralab import __version__
from loralab.files.whole import write_json
from loralab.training.config import TrainConfig

_PACKAGES = ("transformers", "safetensors", "tokenizers", "numpy")


def write_record(path: Path, config: TrainConfig, facts: dict[str, Any]) -> None:
    """Write run.json whole: what was asked for, what it ran on, and the facts found so far."""
    write_json(
        path,
        {
            "format": 1,
            "config": json.loads(json.dumps(asdict(config))),
            "versions": {"loralab": __version__, "python": platform.python_version(), **_versions()},
            "machine": machine(),
            **facts,
        },
    )


def machine() -> dict[str, Any]:
    """The processor, its cores and memory; no host names and no paths."""
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


def _versions() -> dict[str, str]:
    """What torch says of itself names its build too (2.13.0+cu130), which its package does not."""
    found = {"torch": str(torch.__version__)}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    if Path("/proc/cpuinfo").is_file():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
