"""run.json: the configuration, the versions, the machine, and what came of it."""

import json
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from loralab.files.whole import json_text, write_text
from loralab.machine import machine
from loralab.training.config import TrainConfig
from loralab.version import __version__

_PACKAGES = ("transformers", "safetensors", "tokenizers", "numpy")


def write_record(path: Path, config: TrainConfig, facts: dict[str, Any]) -> None:
    """Write run.json whole."""
    write_text(path, record_text(config, facts))


def record_text(config: TrainConfig, facts: dict[str, Any]) -> str:
    """What run.json holds: the configuration, what it runs on, and the facts known so far."""
    content = {
        "format": 1,
        "config": json.loads(json.dumps(asdict(config))),
        "versions": {"loralab": __version__, "python": platform.python_version(), **_versions()},
        "machine": machine(),
        **facts,
    }
    return json_text(content, sort_keys=True)


def _versions() -> dict[str, str]:
    """What torch says of itself names its build too (2.13.0+cu130), which its package does not."""
    versions = {"torch": str(torch.__version__)}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
