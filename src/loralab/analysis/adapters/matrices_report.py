"""The contributions of an adapter's parts as files: matrices.json, and a bar chart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import PercentFormatter

from loralab.analysis.adapters.matrices import Contribution, Contributions, contributions, parts_of
from loralab.analysis.adapters.measurement import Measurement
from loralab.analysis.adapters.parts import has_more
from loralab.core.adapter import Adapter
from loralab.errors import SpecError
from loralab.files.whole import write_json
from loralab.pictures.picture import COLOURS, GRID, INK, picture

TITLES = {"kind": "by kind of matrix", "layer": "by block"}
MOST_UPRIGHT = 12
"""Labels that stand side by side; more of them are turned."""


def analyse_matrices(adapter: Adapter, measure: Measurement, out: Path, layer_groups: int | None) -> dict[str, Any]:
    """Measure, write the files, and return the summary that the command line prints."""
    if layer_groups is not None and layer_groups < 1:
        raise SpecError(
            f"layer-groups {layer_groups} was asked for; at least 1 is needed, or leave it out for every block"
        )
    found = contributions(adapter, measure, parts_of(adapter, layer_groups))
    answer = {
        "adapter": adapter.name,
        "task": measure.task.name,
        "split": measure.split,
        "examples": measure.examples,
        "metric": measure.metric,
        "without_adapter": found.none,
        "with_adapter": found.whole,
        "gain": found.gain,
        "parts": [_row(each) for each in found.parts],
        "notes": _notes(adapter, found),
    }
    files = [out / "matrices.json"]
    write_json(files[0], answer)
    if found.gain > 0:
        files.append(out / "matrices.png")
        _draw(found, files[1], f"{adapter.name}: share of the gain in {measure.metric} on {measure.task.name}")
    return answer | {"files": list(map(str, files))}


def _row(each: Contribution) -> dict[str, Any]:
    return {
        "by": each.part.by,
        "part": each.part.name,
        "updates": len(each.part.cells),
        "without": each.without,
        "alone": each.alone,
        "lost_share": each.lost_share,
        "alone_share": each.alone_share,
    }


def _notes(adapter: Adapter, found: Contributions) -> list[str]:
    notes = []
    if has_more(adapter):
        notes.append("what the adapter trains in full (a head, biases, a prefix) stays on throughout")
    if found.gain <= 0:
        notes.append("the adapter does not improve the metric here, so that there is no gain to share out")
    return notes


def _draw(found: Contributions, path: Path, title: str) -> None:
    panels = {by: [each for each in found.parts if each.part.by == by] for by in TITLES}
    panels = {by: members for by, members in panels.items() if members}
    widths = [max(2.6, 0.9 + 0.42 * len(members)) for members in panels.values()]
    with picture(path, title, 0.8 + sum(widths), 4.2) as figure:
        grid = figure.subplots(1, len(panels), squeeze=False, sharey=True, width_ratios=widths)[0]
        for axes, (by, members) in zip(grid, panels.items(), strict=True):
            _bars(axes, members)
            axes.set_title(TITLES[by], fontsize=10, color=INK)
        grid[0].set_ylabel("share of the whole gain", fontsize=10, color=INK)
        figure.legend(
            *grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9
        )


def _bars(axes: Any, members: Sequence[Contribution]) -> None:
    names = [each.part.name for each in members]
    lost, alone = ([getattr(each, name) for each in members] for name in ("lost_share", "alone_share"))
    places = range(len(members))
    axes.bar([place - 0.2 for place in places], lost, 0.4, color=COLOURS[0], label="lost when switched off")
    axes.bar([place + 0.2 for place in places], alone, 0.4, color=COLOURS[5], label="reached by it alone")
    turned = len(names) > MOST_UPRIGHT or max(map(len, names)) > len("q_proj") + 2
    axes.set_xticks(places, names, rotation=90 if turned else 0)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.tick_params(labelsize=9, colors=INK, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
