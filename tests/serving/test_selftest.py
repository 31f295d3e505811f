"""The test that a server makes of itself before it is ready."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from loralab.serving.engine.engine import EngineConfig
from loralab.serving.registry import Registry
from loralab.serving.selftest import TRIED, self_test
from loralab.serving.service import Service
from serving.causal import LENGTH, causal
from serving.test_registry import write

VOCABULARY = 97


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(3):
        write(causal("llama"), tmp_path / f"a{seed}", seed=seed)
    return tmp_path


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service(causal("llama"), EngineConfig(rows=4, chunk=8, length=LENGTH, pack=False))
    yield service
    service.close()


def tried(service: Service, folder: Path, most: int = TRIED) -> list[str]:
    registry = Registry(causal("llama"), folder, evicted=service.release)
    try:
        return self_test(service, registry, most, VOCABULARY)
    finally:
        registry.close()


def test_it_says_what_was_tried(service: Service, folder: Path) -> None:
    assert tried(service, folder) == ["self-test: the base and 3 adapters answered together what each answers alone"]
    assert tried(service, folder, most=1) == [
        "self-test: the base and one adapter answered together what each answers alone"
    ]


def test_a_folder_that_cannot_be_read_is_named(service: Service, folder: Path) -> None:
    tensors = folder / "a1" / "adapter_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])
    shutil.copytree(folder / "a2", folder / "a3")
    (folder / "a3" / "adapter_model.safetensors").unlink()
    damaged, missing, rest = tried(service, folder)
    assert damaged.startswith("a1 cannot be served: ")
    assert missing.startswith("a3 cannot be served: ")
    assert rest == "self-test: the base and 2 adapters answered together what each answers alone"


def test_rows_that_disturb_each_other_are_told(service: Service, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = service.engine._decoder.logits
    monkeypatch.setattr(
        service.engine._decoder,
        "logits",
        lambda ids, adapters, cache: (scores := own(ids, adapters, cache)).roll(len(scores) - 1, 0),
    )
    (said,) = tried(service, folder)
    assert "answered otherwise beside others than alone" in said
    assert "adapter a2" in said


def test_scores_that_are_no_numbers_are_told(service: Service, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = service.engine._decoder.read
    monkeypatch.setattr(service.engine._decoder, "read", lambda chunks: own(chunks) * torch.nan)
    (said,) = tried(service, folder)
    assert said == "self-test: the base, adapter a0, adapter a1, adapter a2 answered with scores that are not finite"


def test_nothing_is_said_of_a_base_alone_or_a_short_engine(service: Service, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert tried(service, tmp_path / "empty") == []
    short = Service(causal("llama"), EngineConfig(rows=4, chunk=8, length=8, fused=False))
    assert tried(short, folder) == ["no self-test: at most 8 tokens fit into the engine"]
    short.close()
