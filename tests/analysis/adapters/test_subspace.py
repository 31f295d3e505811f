"""φ on planted subspaces, on Gaussian ones, and what two adapters must have in common."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from loralab.analysis.adapters.deltas import deltas
from loralab.analysis.adapters.subspace import overlaps, overlaps_with_base, right_vectors, similarity
from loralab.core.updates.factors import Recipe
from loralab.errors import AdapterFileError, SpecError
from loralab.formats.read import read_adapter
from loralab.formats.stored import StoredUpdate
from planted import Planted, Toy, orthonormal, write_adapter


def phi(U: Tensor, V: Tensor, i: int, j: int) -> float:
    """The definition, one i and j at a time."""
    return float(torch.linalg.norm(U[:, :i].T @ V[:, :j]).square() / min(i, j))


def test_all_i_and_j_at_once_are_the_definition() -> None:
    U, V = orthonormal(20, 6, 1).double(), orthonormal(20, 3, 2).double()
    found = similarity(U, V)
    expected = [[phi(U, V, i, j) for j in range(1, 4)] for i in range(1, 7)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_equal_and_orthogonal_subspaces() -> None:
    basis = orthonormal(20, 8, 3).double()
    rotated = basis[:, :4] @ orthonormal(4, 4, 4).double()
    assert float(similarity(basis[:, :4], rotated)[-1, -1]) == pytest.approx(1)
    assert float(similarity(basis[:, :4], basis[:, 4:]).abs().max()) < 1e-12
    assert similarity(basis, basis).tolist() == [pytest.approx([1.0] * 8)] * 8


def test_the_papers_identity_with_its_p() -> None:
    U, V = orthonormal(20, 5, 5).double(), orthonormal(20, 3, 6).double()
    sigma = torch.linalg.svdvals(U.T @ V)
    distance = (3 - sigma.square().sum()).sqrt()
    assert float(similarity(U, V)[-1, -1]) == pytest.approx(float(1 - distance.square() / 3))


def test_random_subspaces_share_as_much_as_their_size_says() -> None:
    U, V = orthonormal(400, 40, 7).double(), orthonormal(400, 8, 8).double()
    found = similarity(U, V)
    assert float(found[39, 7]) == pytest.approx(40 / 400, abs=0.02)
    assert float(found[7, 7]) == pytest.approx(8 / 400, abs=0.01)


def planted(rank: int, seed: int, shared: int = 0) -> Planted:
    """Factors whose first `shared` input directions are the same for every seed, falling in strength."""
    strength = torch.arange(rank, 0, -1.0)
    common = orthonormal(12, 12, 0)
    own = common[:, shared:] @ orthonormal(12 - shared, rank - shared, seed)
    A = (torch.cat([common[:, :shared], own], 1) * strength).T
    B = orthonormal(10, rank, seed + 100) * strength
    return {f"layers.{layer}.{name}": (A, B) for layer in (0, 1) for name in "qv"}


def test_a_planted_shared_direction_is_found(tmp_path: Path) -> None:
    one = read_adapter(write_adapter(tmp_path / "one", planted(2, 1, shared=1))).demand()
    other = read_adapter(write_adapter(tmp_path / "other", planted(4, 2, shared=1))).demand()
    found = list(overlaps(one, other))
    assert [(each.name, each.side) for each in found[:3]] == [
        ("layers.0.q", "right"),
        ("layers.0.q", "left"),
        ("layers.0.v", "right"),
    ]
    assert len(found) == 8
    right = found[0]
    assert right.phi_IJ.shape == right.random_IJ.shape == (2, 4)
    assert right.top == pytest.approx(1, abs=1e-6)
    assert right.shared_dimensions >= 1
    assert float(right.random_IJ[0, 0]) < 0.9


def test_of_the_update_the_factors_order_does_not_matter(tmp_path: Path) -> None:
    """B·A = (B·M)·(M⁻¹·A): other factors of one update have other singular vectors, the update's are the same."""
    factors = planted(3, 1)
    mix = torch.tensor([[3.0, 1, 0], [0, 1, 2], [1, 0, 1]])
    mixed = {name: (torch.linalg.inv(mix) @ A, B @ mix) for name, (A, B) in factors.items()}
    one = read_adapter(write_adapter(tmp_path / "one", factors)).demand()
    other = read_adapter(write_adapter(tmp_path / "other", mixed)).demand()
    for each in overlaps(one, other, of="update"):
        assert each.phi_IJ.diagonal().tolist() == pytest.approx([1.0] * 3, abs=1e-5)


def test_a_lower_numerical_rank_counts(tmp_path: Path) -> None:
    factors = planted(3, 1)
    flat = {name: (A.clone(), B) for name, (A, B) in factors.items()}
    for A, _ in flat.values():
        A[2] = A[0] + A[1]
    found = next(deltas(read_adapter(write_adapter(tmp_path / "flat", flat)).demand()))
    assert right_vectors(found.A).shape == (12, 2)
    assert [each.shape[-1] for each in found.svd()] == [2, 2, 2]


def test_an_update_is_its_svd(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "one", planted(3, 1), alpha=6)
    for each in deltas(read_adapter(folder).demand()):
        U, sigma, V = each.svd()
        dense = each.scale * each.B @ each.A
        torch.testing.assert_close((U * sigma) @ V.T, dense)
        assert each.scale == 2
        assert each.delta_norm() == pytest.approx(float(torch.linalg.norm(dense)))


def test_other_targets_name_both_sides(tmp_path: Path) -> None:
    everything, only_q = planted(2, 1), {"layers.0.q": planted(2, 1)["layers.0.q"]}
    one = read_adapter(write_adapter(tmp_path / "one", everything)).demand()
    other = read_adapter(write_adapter(tmp_path / "other", only_q)).demand()
    with pytest.raises(SpecError, match=r"different targets: only .*one adapts layers\.0\.v; layers\.1\.q"):
        list(overlaps(one, other))
    assert [each.name for each in overlaps(one, other, modules=r"layers\.0\.q")] == ["layers.0.q"] * 2
    with pytest.raises(SpecError, match=r"no module of .* matches 'nowhere'"):
        list(overlaps(one, other, modules="nowhere"))


def test_another_base_names_both_sides(tmp_path: Path) -> None:
    changed = Toy()
    with torch.no_grad():
        changed.layers[0]["q"].weight.add_(1)  # type: ignore[index]
    one = read_adapter(write_adapter(tmp_path / "one", planted(2, 1))).demand()
    other = read_adapter(write_adapter(tmp_path / "other", planted(2, 1), model=changed)).demand()
    with pytest.raises(SpecError, match=r"different base models: .*one to .*other to"):
        list(overlaps(one, other))


def test_a_rank_of_zero_and_nan(tmp_path: Path) -> None:
    silent = {name: (A, torch.zeros_like(B)) for name, (A, B) in planted(2, 1).items()}
    folders = [write_adapter(tmp_path / name, factors) for name, factors in (("on", planted(2, 1)), ("off", silent))]
    with pytest.raises(SpecError, match=r"layers\.0\.q in .*off has rank zero \(left side\)"):
        list(overlaps(*(read_adapter(each).demand() for each in folders)))
    (folders[0] / "loralab.json").unlink()
    spoil(folders[0] / "adapter_model.safetensors")
    with pytest.raises(AdapterFileError, match="NaN"):
        read_adapter(folders[0]).demand()


def spoil(path: Path) -> None:
    """Put a NaN into the first tensor of a file."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, path)


def test_with_the_bases_own_weight(tmp_path: Path) -> None:
    """An update along W's first directions lies within them; one along its last is orthogonal to the first."""
    model = Toy()
    W = model.get_submodule("layers.0.q").get_parameter("weight").detach()
    U, _, Vh = torch.linalg.svd(W, full_matrices=False)
    first, last = (Vh[:2], U[:, :2]), (Vh[-2:], U[:, -2:])
    for name, factors, expected in (("first", first, 1.0), ("last", last, 0.0)):
        adapter = read_adapter(write_adapter(tmp_path / name, {"layers.0.q": factors})).demand()
        for each in overlaps_with_base(adapter, model, of="update"):
            assert each.phi_IJ.shape == (10, 2)
            assert float(each.phi_IJ[1, 1]) == pytest.approx(expected, abs=1e-5)
            assert float(each.phi_IJ[9, 1]) == pytest.approx(1, abs=1e-5)


def test_a_raw_matrix_is_one_update() -> None:
    pair = StoredUpdate("w", "parameters", ("a", "b"), torch.ones(2, 12), torch.ones(10, 2), Recipe(2, 2.0))
    assert [tuple(each.shape) for each in pair.matrices()] == [(1, 2, 12), (1, 10, 2)]
