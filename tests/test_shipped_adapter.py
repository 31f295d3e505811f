"""The adapter in adapters/ does what its card says."""

import json
from pathlib import Path

import pytest

import loralab as ll
from loralab.models.load import load_model
from loralab.tasks.table import open_task

SHIPPED = Path(__file__).resolve().parent.parent / "adapters" / "docstrings-smollm2-135m"
TOLERANCE = 0.1
"""Nats: other patch releases of Python have other docstrings, other processors another precision of the base."""


def test_the_shipped_adapter_reproduces_a_slice_of_its_score(smollm2: Path) -> None:
    expected = json.loads((SHIPPED / "score.json").read_text())
    loaded = load_model("smollm2-135m")
    task, found = open_task("docstrings"), {}
    adapter = ll.load(loaded.model, SHIPPED)
    for name, active in (("before", None), ("after", adapter.name)):
        ll.activate(loaded.model, active)
        found[name] = ll.evaluate(
            loaded.model, loaded.tokenizer, task, expected["split"], limit=expected["examples"]
        ).loss
    assert found == pytest.approx(expected["loss"], abs=TOLERANCE)
    assert found["after"] < found["before"] - 0.5


def test_the_shipped_adapter_is_small_and_has_its_card() -> None:
    assert (SHIPPED / "adapter_model.safetensors").stat().st_size < 1_000_000
    assert "docstrings" in (SHIPPED / "README.md").read_text()
