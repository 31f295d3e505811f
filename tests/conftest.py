"""What every test may use: offline, one thread, fixed seeds, and the real files and models if present."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from loralab.errors import LoralabError

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # what a shell gives to what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

PRODUCTS = torch.backends.mkldnn.matmul
FLOAT32_PRODUCTS = PRODUCTS.fp32_precision


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same random state, and with float32 products as torch does them: a training may leave
    the process with others, whose last bits differ."""
    PRODUCTS.fp32_precision = FLOAT32_PRODUCTS
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of official data files and published adapters, beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the shared data folder is not here: {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The Hugging Face folder of SmolLM2-135M, made from the installed package."""
    return _embedded("smollm2-135m")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The Hugging Face folder of MiniLM-L6, made from the installed package."""
    return _embedded("minilm-l6")


def _embedded(name: str) -> Path:
    from loralab.models.embedded import embedded_folder

    try:
        return embedded_folder(name)
    except LoralabError as error:
        pytest.skip(str(error))


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run_python() -> Run:
    """Run code in another process with loralab on its path: run_python(code, *arguments)."""
    source = Path(__file__).resolve().parents[1] / "src"
    environment = {**os.environ, "PYTHONPATH": str(source)}

    def run(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run
