"""How far the directions of two updates coincide (paper §7.2 and Appendix G; Figures 3, 4, 6, 7 and 8).

    φ(U, V, i, j) = ‖Uᵢᵀ·Vⱼ‖²_F / min(i, j)        Uᵢ: the first i singular vectors, as columns

φ is 1 where one subspace holds the other and 0 where they are orthogonal. It is Σσ²/p with the p = min(i, j) singular
values σ of Uᵢᵀ·Vⱼ, so 1 − d²/p with the projection metric d = √(p − Σσ²): the paper prints this identity without the
p. Two random subspaces of R^k have φ ≈ max(i, j)/k.

Written: subspace.json with every φ, and a heat map for each side.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from loralab.analysis.adapters.deltas import base_matrix, deltas, group_free, module_names, paired_deltas, random_basis
from loralab.core.thin import numerical_rank
from loralab.errors import SpecError
from loralab.files.whole import whole_file
from loralab.formats.read import read_adapter
from loralab.formats.stored import StoredAdapter, StoredUpdate
from loralab.nn.module_names import kind_of_module, layer_index
from loralab.pictures.panels import Panel, draw_heatmaps
from loralab.pictures.ticks import spread

Side = Literal["right", "left"]
Of = Literal["factors", "update"]
SIDES: tuple[Side, ...] = ("right", "left")
SHARED = 0.5
"""Above this φ(k, k) two subspaces of k dimensions are said to be shared, as in the paper's reading of Figure 3."""
BASE, BASE_COLOURS = "W", 0.2
"""What the base's weight is called, and the end of the colours beside it, as in Figure 8: all of W holds everything."""
MOST_ROWS = 128
"""Of a grid in the file and in the picture; of a weight's many, evenly spaced ones."""
PANELS = 4
"""Layers in a picture: the first, the last and two between, as in the paper's Figures 6 and 7."""


@dataclass(frozen=True)
class Overlap:
    """φ for all i and j of one module, and the same for random factors of that shape."""

    name: str
    side: Side
    phi_IJ: Tensor
    """[i, j], counted from 1; float64."""
    random_IJ: Tensor

    @property
    def shared_dimensions(self) -> int:
        """The largest k for which φ(k, k) is above one half."""
        above = (self.phi_IJ.diagonal() > SHARED).nonzero()
        return int(above.max()) + 1 if len(above) else 0

    @property
    def top(self) -> float:
        """φ(1, 1): how far the strongest directions agree."""
        return float(self.phi_IJ[0, 0])


def overlaps(
    one: StoredAdapter, other: StoredAdapter, *, of: Of = "factors", modules: str | None = None, seed: int = 0
) -> Iterator[Overlap]:
    """Both sides of every module that two adapters share, one module after another.

    `factors` takes the right singular vectors of A and the left ones of B, as the paper does; `update` those of ΔW.
    Raises SpecError for adapters that cannot be compared, and for an update that is zero: it has no directions.
    """
    generator = torch.Generator().manual_seed(seed)
    for mine, theirs in paired_deltas(one, other, modules):
        bases = [_bases(each, of, source) for each, source in ((mine, one), (theirs, other))]
        for side in SIDES:
            U, V = bases[0][side], bases[1][side]
            random = similarity(random_basis(U.shape, generator), random_basis(V.shape, generator))
            yield Overlap(mine.name, side, similarity(U, V), random)


def overlaps_with_base(
    adapter: StoredAdapter, model: nn.Module, *, of: Of = "factors", modules: str | None = None, seed: int = 0
) -> Iterator[Overlap]:
    """φ between each base weight W, all of its directions, and its update (Figure 8).

    Raises SpecError for modules that the model does not have, and for an update that is zero.
    """
    generator = torch.Generator().manual_seed(seed)
    for delta in deltas(adapter, modules):
        W_OI = base_matrix(model, delta.part_of or delta.name, delta.shape, delta.rows)
        U, _, Vh = torch.linalg.svd(W_OI, full_matrices=False)
        of_update = _bases(delta, of, adapter)
        of_base: dict[Side, Tensor] = {"right": Vh.T, "left": U}
        for side, basis in of_base.items():
            V = of_update[side]
            yield Overlap(delta.name, side, similarity(basis, V), similarity(basis, random_basis(V.shape, generator)))


def similarity(U_KI: Tensor, V_KJ: Tensor) -> Tensor:
    """φ [I, J] of all leading columns of two orthonormal bases of subspaces of R^K."""
    squared_IJ = (U_KI.T @ V_KJ).square().cumsum(0).cumsum(1)
    i, j = (torch.arange(1, count + 1, dtype=squared_IJ.dtype) for count in squared_IJ.shape)
    phi_IJ: Tensor = squared_IJ / torch.minimum(i[:, None], j[None, :])
    return phi_IJ


def right_vectors(matrix_OI: Tensor) -> Tensor:
    """The right singular vectors [I, K] of a matrix, those of its numerical rank K."""
    _, sigma, Vh = torch.linalg.svd(matrix_OI, full_matrices=False)
    vectors_IK: Tensor = Vh[: numerical_rank(sigma, sum(matrix_OI.shape))].T
    return vectors_IK


def _bases(delta: StoredUpdate, of: Of, source: StoredAdapter) -> dict[Side, Tensor]:
    if of == "update":
        U, _, V = delta.svd()
        bases: dict[Side, Tensor] = {"right": V, "left": U}
    else:
        bases = {"right": right_vectors(delta.A), "left": right_vectors(delta.B.T)}
    empty = [side for side, basis in bases.items() if basis.shape[1] == 0]
    if empty:
        raise SpecError(
            f"{delta.name} in {source.source} has rank zero ({' and '.join(empty)} side): it learned no direction to "
            "compare; see loralab inspect for dead tensors, or leave the module out with --modules"
        )
    return bases


def analyse_subspaces(
    one: str, other: str | None, out: Path, *, model: nn.Module | None, of: Of, modules: str | None, seed: int
) -> dict[str, Any]:
    """Compare two adapters, or one with the model's own weights; write the files, and return the summary that the
    command line prints.
    """
    first = read_adapter(one).demand()
    if other is not None:
        second = read_adapter(other).demand()
        results, names = overlaps(first, second, of=of, modules=modules, seed=seed), (first.name, second.name)
    else:
        assert model is not None
        results, names = overlaps_with_base(first, model, of=of, modules=modules, seed=seed), (BASE, first.name)
    out.mkdir(parents=True, exist_ok=True)
    shown = set(_shown_names(module_names(first, modules)))
    rows, panels = _write_grids(results, out / "subspace.json", {"compared": names, "of": of}, shown)
    plots = [_draw(panels, side, out / f"subspace-{side}.png", names) for side in SIDES]
    return {
        "adapters": [each for each in (one, other) if each is not None],
        "compared": list(names),
        "of": of,
        "ranks": [max(each.phi_IJ.shape[axis] for each in panels) for axis in (0, 1)],
        "modules": rows,
        "mean": {side: _mean([row for row in rows if row["side"] == side]) for side in SIDES},
        "files": [str(out / "subspace.json"), *map(str, plots)],
    }


def _write_grids(
    results: Iterable[Overlap], path: Path, head: dict[str, Any], shown: set[str]
) -> tuple[list[dict[str, Any]], list[Overlap]]:
    """(a row of numbers for each, those that are drawn). A grid is written as it comes: few are in memory."""
    rows: list[dict[str, Any]] = []
    panels = []
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write(f'{json.dumps(head)[:-1]}, "modules": [')
        for each in results:
            stream.write(("," if rows else "") + "\n" + json.dumps(_whole(each)))
            rows.append(_brief(each))
            if group_free(each.name) in shown:
                panels.append(each)
        stream.write("\n]}\n")
    return rows, panels


def _shown_names(names: Sequence[str]) -> Iterator[str]:
    """Of every kind of module the first, the last, and evenly spaced ones between."""
    for kind in dict.fromkeys(map(kind_of_module, names)):
        of_kind = [name for name in names if kind_of_module(name) == kind]
        yield from (of_kind[place] for place in spread(len(of_kind), PANELS))


def _brief(overlap: Overlap) -> dict[str, Any]:
    return {
        "module": overlap.name,
        "side": overlap.side,
        "phi_1_1": overlap.top,
        "phi_all": float(overlap.phi_IJ[-1, -1]),
        "random_1_1": float(overlap.random_IJ[0, 0]),
        "random_all": float(overlap.random_IJ[-1, -1]),
        "shared_dimensions": overlap.shared_dimensions,
    }


def _whole(overlap: Overlap) -> dict[str, Any]:
    rows = spread(len(overlap.phi_IJ), MOST_ROWS)
    grids = {"phi": overlap.phi_IJ[rows].tolist(), "random": overlap.random_IJ[rows].tolist()}
    return _brief(overlap) | {"i": [row + 1 for row in rows]} | grids


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    names = ("phi_1_1", "phi_all", "random_1_1", "random_all", "shared_dimensions")
    return {name: sum(row[name] for row in rows) / len(rows) for name in names}


def _draw(results: Sequence[Overlap], side: str, path: Path, names: tuple[str, str]) -> Path:
    here = [each for each in results if each.side == side]
    rows = []
    for kind in dict.fromkeys(kind_of_module(each.name) for each in here):
        chosen = [each for each in here if kind_of_module(each.name) == kind][:PANELS]
        rows.append([*(_panel(each) for each in chosen), _as_panel(f"{kind}, random", chosen[-1].random_IJ)])
    factor = {"right": "right singular vectors (of inputs)", "left": "left singular vectors (of outputs)"}[side]
    highest = BASE_COLOURS if names[0] == BASE else max(0.5, *(float(each.phi_IJ.max()) for each in here))
    draw_heatmaps(
        rows,
        path,
        title=f"φ(i, j) between {names[0]} and {names[1]}, {factor}",
        across=f"j: first directions of {names[1]}",
        down=f"i: first directions of {names[0]}",
        bar="φ, 1: one subspace holds the other",
        highest=highest,
    )
    return path


def _panel(overlap: Overlap) -> Panel:
    layer, kind = layer_index(overlap.name), kind_of_module(overlap.name)
    return _as_panel(kind if layer is None else f"{kind}, block {layer}", overlap.phi_IJ)


def _as_panel(title: str, grid_IJ: Tensor) -> Panel:
    return Panel(title, grid_IJ[spread(len(grid_IJ), MOST_ROWS)], len(grid_IJ))
