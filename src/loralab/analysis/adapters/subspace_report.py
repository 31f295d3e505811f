"""The analysis of subspaces as files: subspace.json with every φ, and a heat map for each side."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from loralab.analysis.adapters.deltas import group_free, kind_of_module, layer_number, module_names, spread
from loralab.analysis.adapters.subspace import SIDES, Of, Overlap, overlaps, overlaps_with_base
from loralab.files.whole import whole_file
from loralab.formats.stored import read_adapter
from loralab.pictures.heatmap import Panel, draw_heatmaps

BASE, BASE_COLOURS = "W", 0.2
"""What the base's weight is called, and the end of the colours beside it, as in Figure 8: all of W holds everything."""
MOST_ROWS = 128
"""Of a grid in the file and in the picture."""
PANELS = 4
"""Layers in a picture: the first, the last and two between, as in the paper's Figures 6 and 7."""


def analyse_subspaces(
    one: str, other: str | None, out: Path, *, model: nn.Module | None, of: Of, modules: str | None, seed: int
) -> dict[str, Any]:
    """Compare two adapters, or one with the model's own weights; write the files, and return the summary that the
    command line prints.
    """
    first = read_adapter(one).demand()
    if other is not None:
        second = read_adapter(other).demand()
        found, names = overlaps(first, second, of=of, modules=modules, seed=seed), (first.name, second.name)
    else:
        assert model is not None
        found, names = overlaps_with_base(first, model, of=of, modules=modules, seed=seed), (BASE, first.name)
    out.mkdir(parents=True, exist_ok=True)
    shown = set(_shown_names(module_names(first, modules)))
    rows, panels = _write_grids(found, out / "subspace.json", {"compared": names, "of": of}, shown)
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
    found: Iterable[Overlap], path: Path, head: dict[str, Any], shown: set[str]
) -> tuple[list[dict[str, Any]], list[Overlap]]:
    """(a row of numbers for each, those that are drawn). A grid is written as it comes: few are in memory."""
    rows: list[dict[str, Any]] = []
    panels = []
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write(f'{json.dumps(head)[:-1]}, "modules": [')
        for each in found:
            stream.write(("," if rows else "") + "\n" + json.dumps(_whole(each)))
            rows.append(_brief(each))
            if group_free(each.name) in shown:
                panels.append(each)
        stream.write("\n]}\n")
    return rows, panels


def _shown_names(names: Sequence[str]) -> Iterator[str]:
    """Of every kind of module the first, the last, and evenly spaced ones between."""
    for kind in dict.fromkeys(map(kind_of_module, names)):
        yield from spread([name for name in names if kind_of_module(name) == kind], PANELS)


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
    rows = _shown(len(overlap.phi_IJ))
    grids = {"phi": overlap.phi_IJ[rows].tolist(), "random": overlap.random_IJ[rows].tolist()}
    return _brief(overlap) | {"i": [row + 1 for row in rows]} | grids


def _shown(rows: int) -> list[int]:
    """All rows of a grid, or evenly spaced ones of a weight's many, the first and the last among them."""
    if rows <= MOST_ROWS:
        return list(range(rows))
    return [round(place * (rows - 1) / (MOST_ROWS - 1)) for place in range(MOST_ROWS)]


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    names = ("phi_1_1", "phi_all", "random_1_1", "random_all", "shared_dimensions")
    return {name: sum(row[name] for row in rows) / len(rows) for name in names}


def _draw(found: Sequence[Overlap], side: str, path: Path, names: tuple[str, str]) -> Path:
    here = [each for each in found if each.side == side]
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
    layer, kind = layer_number(overlap.name), kind_of_module(overlap.name)
    return _as_panel(kind if layer is None else f"{kind}, block {layer}", overlap.phi_IJ)


def _as_panel(title: str, grid_IJ: Tensor) -> Panel:
    return Panel(title, grid_IJ[_shown(len(grid_IJ))], len(grid_IJ))
