"""Table 7's quantities on planted updates, and its random row on a large enough matrix."""

import math
from pathlib import Path

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from loralab.analysis.adapters.amplification import amplification, amplifications, seen, strongest
from loralab.analysis.adapters.deltas import base_matrix
from loralab.core.updates.factors import Recipe
from loralab.errors import SpecError
from loralab.formats.read import read_adapter
from loralab.formats.stored import StoredUpdate
from planted import Toy, orthonormal, write_adapter


def _update(A: torch.Tensor, B: torch.Tensor) -> StoredUpdate:
    return StoredUpdate("q", "linear", ("q.lora_A", "q.lora_B"), A, B, Recipe(len(A), len(A)))


def test_an_update_along_the_bases_own_directions() -> None:
    """ΔW = 5·(the base's first two directions): ‖UᵀWV‖ is what W has there, and the same as in W's own."""
    torch.manual_seed(0)
    W = torch.randn(10, 12, dtype=torch.float64)
    U, sigma, Vh = torch.linalg.svd(W)
    found = amplification(_update(Vh[:2], 5 * U[:, :2]), W, None, torch.Generator().manual_seed(0))
    assert found.rank == 2
    assert found.in_delta == pytest.approx(float(sigma[:2].norm()))
    assert found.in_base == pytest.approx(found.in_delta)
    assert found.delta_norm == pytest.approx(5 * math.sqrt(2))
    assert found.factor == pytest.approx(5 * math.sqrt(2) / float(sigma[:2].norm()))


def test_directions_that_the_base_does_not_have() -> None:
    W = torch.zeros(4, 4, dtype=torch.float64)
    W[0, 0] = 1
    elsewhere = torch.eye(4, dtype=torch.float64)[:, 1:2]
    found = amplification(_update(elsewhere.T, elsewhere), W, None, torch.Generator())
    assert (found.in_delta, found.factor) == (0, math.inf)


def test_the_random_row_is_what_the_paper_prints() -> None:
    """(r/d)·‖W‖_F: 0.02 and 0.33 of 61.95 for r = 4 and 64 of d = 12,288; here the same law at d = 600."""
    torch.manual_seed(0)
    W = torch.randn(600, 600, dtype=torch.float64)
    for rank in (4, 64):
        draws = [seen(orthonormal(600, rank, s).double(), W, orthonormal(600, rank, s + 9).double()) for s in range(5)]
        assert sum(draws) / 5 == pytest.approx(rank / 600 * float(W.norm()), rel=0.1)


def test_the_strongest_is_the_largest_singular_values() -> None:
    for shape in ((7, 20), (20, 7)):
        W = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        assert strongest(W, 3) == pytest.approx(float(torch.linalg.svdvals(W)[:3].norm()))


def test_of_an_adapter_on_disk(tmp_path: Path) -> None:
    model = Toy()
    factors = (orthonormal(12, 2, 1).T, orthonormal(10, 2, 2))
    adapter = read_adapter(
        write_adapter(tmp_path / "one", {"layers.0.q": factors, "layers.1.v": factors}, alpha=6)
    ).demand()
    rows = list(amplifications(adapter, model, rank=1))
    assert [(row.name, row.rank) for row in rows] == [("layers.0.q", 1), ("layers.1.v", 1)]
    assert rows[0].delta_norm == pytest.approx(3 * math.sqrt(2), rel=1e-5)
    assert rows[0].base_norm == pytest.approx(float(model.layers[0]["q"].weight.detach().norm()))  # type: ignore[index]
    with pytest.raises(SpecError, match="rank 0: must be at least 1"):
        list(amplifications(adapter, model, rank=0))


def test_a_model_that_is_not_the_base(tmp_path: Path) -> None:
    factors = (orthonormal(12, 2, 1).T, orthonormal(10, 2, 2))
    adapter = read_adapter(write_adapter(tmp_path / "one", {"layers.0.q": factors})).demand()
    with pytest.raises(SpecError, match=r"changes layers\.0\.q, of which this model has no weight"):
        list(amplifications(adapter, torch.nn.Linear(3, 3)))
    other = torch.nn.Module()
    other.layers = torch.nn.ModuleList([torch.nn.ModuleDict({"q": torch.nn.Linear(5, 5)})])
    with pytest.raises(SpecError, match=r"update of layers\.0\.q is \[10, 12\], the model's weight there is \[5, 5\]"):
        list(amplifications(adapter, other))


def test_weights_that_are_stored_the_other_way_round() -> None:
    model = torch.nn.ModuleDict({"c": Conv1D(10, 12), "e": torch.nn.Embedding(20, 6), "k": torch.nn.Conv2d(3, 5, 2)})
    assert base_matrix(model, "c", (10, 12)).equal(model["c"].weight.double().T)
    assert base_matrix(model, "e", (6, 20)).equal(model["e"].weight.double().T)
    assert base_matrix(model, "k", (5, 12)).shape == (5, 12)
