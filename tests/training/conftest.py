"""A tiny model, tiny data, and runs on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loralab as ll
from sizes import that_count
from tiny import write_bert, write_labels, write_llama, write_pairs

Run = Callable[..., ll.TrainConfig]


@pytest.fixture
def configured(tmp_path: Path) -> Run:
    """A configuration of a run of a few steps, into a folder of its own unless told otherwise."""
    model, data = write_llama(tmp_path / "llama"), write_pairs(tmp_path / "pairs")

    def configure(out: str = "run", **changes: Any) -> ll.TrainConfig:
        defaults = {
            "model": str(model), "task": "jsonl", "data": str(data), "out": str(tmp_path / out), "rank": 2, "steps": 6,
            "batch_size": 8, "lr": 3e-2, "alpha": 32.0, "targets": "q_proj,v_proj,lm_head", "eval_limit": 8,
            "dtype": "float32", "device": "cpu",
        }  # fmt: skip
        return ll.TrainConfig(**that_count(defaults | changes))

    return configure


@pytest.fixture
def classifying(tmp_path: Path) -> Run:
    """The same for a classifier with a fresh head."""
    model, data = write_bert(tmp_path / "bert"), write_labels(tmp_path / "labels")

    def configure(**changes: Any) -> ll.TrainConfig:
        defaults = {
            "model": str(model), "task": "jsonl", "data": str(data), "out": str(tmp_path / "run"), "rank": 2,
            "batch_size": 8, "lr": 1e-2, "epochs": 4, "dtype": "float32", "device": "cpu",
        }  # fmt: skip
        return ll.TrainConfig(**that_count(defaults | changes))

    return configure
