"""What each kind of matrix and each block contributes to an adapter's gain: the question of the paper's Tables 5 and 6,
asked of one trained adapter by switching its parts off.

    lost(P) = (m(all) − m(all but P)) / (m(all) − m(none))     what goes with P
    alone(P) = (m(P) − m(none)) / (m(all) − m(none))           what P does by itself

m is the metric with its sign such that more is better. The shares of several parts need not sum to 1: parts stand in
for each other (lost is small, alone is large) or need each other (the other way round). Trained alone, under the same
budget, as the paper trains them, matrices may do more than they do alone here.

Written: matrices.json, and a bar chart.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loralab.analysis.adapters.measurement import Measurement
from loralab.analysis.adapters.parts import Cell, cells_of, has_more, switched_off
from loralab.core.adapter import Adapter
from loralab.core.updates.update import WHOLE
from loralab.errors import SpecError
from loralab.files.whole import write_json
from loralab.nn.module_names import kind_of_module, layer_index
from loralab.pictures.picture import COLOURS, INK, in_per_cent, legend_below, picture, style
from loralab.progress import tracked

OUTSIDE = "outside blocks"
TITLES = {"kind": "by kind of matrix", "layer": "by block"}
MOST_UPRIGHT = 12
"""Labels that stand side by side; more of them are turned."""


@dataclass(frozen=True)
class Part:
    """Some of an adapter's updates: those of one kind, or of some consecutive blocks."""

    by: str
    """`kind` or `layer`."""
    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Contribution:
    """The metric without a part of the adapter, and with that part alone."""

    part: Part
    without: float
    alone: float
    lost_share: float | None
    """Of the whole gain; None where there is no gain."""
    alone_share: float | None


@dataclass(frozen=True)
class Contributions:
    """All of them, with the metric of the whole adapter and of none of its low-rank updates."""

    none: float
    whole: float
    gain: float
    parts: tuple[Contribution, ...]


def parts_of(adapter: Adapter, layer_groups: int | None = None) -> list[Part]:
    """The kinds of matrices, then the blocks, in at most `layer_groups` groups of consecutive ones."""
    cells = cells_of(adapter)
    kinds: dict[str, list[Cell]] = {}
    layers: dict[int | None, list[Cell]] = {}
    for path, part in cells:
        kind = kind_of_module(path)
        kinds.setdefault(kind if part == WHOLE else f"{kind}[{part}]", []).append((path, part))
        layers.setdefault(layer_index(path), []).append((path, part))
    parts = [Part("kind", name, tuple(members)) for name, members in kinds.items()]
    parts += [Part("layer", name, tuple(members)) for name, members in _grouped(layers, layer_groups)]
    return parts


def contributions(adapter: Adapter, measure: Measurement, parts: Sequence[Part]) -> Contributions:
    """Measure without and with each part alone; the adapter is afterwards as it was, bit for bit."""
    cells = cells_of(adapter)
    whole = measure()
    with switched_off(measure.model, adapter, cells):
        none = measure()
    measure.announce(2 * len(parts))
    gain = measure.gain(none, whole)
    results = []
    for part in tracked(parts, "parts"):
        with switched_off(measure.model, adapter, part.cells):
            without = measure()
        with switched_off(measure.model, adapter, [cell for cell in cells if cell not in part.cells]):
            alone = measure()
        shares = [measure.gain(*each) / gain if gain > 0 else None for each in ((without, whole), (none, alone))]
        results.append(Contribution(part, without, alone, *shares))
    return Contributions(none, whole, gain, tuple(results))


def _grouped(layers: Mapping[int | None, list[Cell]], most: int | None) -> Iterator[tuple[str, list[Cell]]]:
    numbers = sorted(number for number in layers if number is not None)
    count = len(numbers) if most is None else min(most, len(numbers))
    for group in range(count):
        members = numbers[group * len(numbers) // count : (group + 1) * len(numbers) // count]
        name = str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}"
        yield name, [cell for number in members for cell in layers[number]]
    if None in layers:
        yield OUTSIDE, layers[None]


def analyse_matrices(adapter: Adapter, measure: Measurement, out: Path, layer_groups: int | None) -> dict[str, Any]:
    """Measure, write the files, and return the summary that the command line prints."""
    if layer_groups is not None and layer_groups < 1:
        raise SpecError(f"layer-groups {layer_groups}: must be at least 1; leave it out for every block by itself")
    results = contributions(adapter, measure, parts_of(adapter, layer_groups))
    answer = {
        "adapter": adapter.name,
        **measure.said(),
        "without_adapter": results.none,
        "with_adapter": results.whole,
        "gain": results.gain,
        "parts": [_row(each) for each in results.parts],
        "notes": [*_notes(adapter, results), *measure.loose()],
    }
    files = [out / "matrices.json"]
    write_json(files[0], answer)
    if results.gain > 0:
        files.append(out / "matrices.png")
        _draw(results, files[1], f"{adapter.name}: share of the gain in {measure.metric} on {measure.task.name}")
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


def _notes(adapter: Adapter, results: Contributions) -> list[str]:
    notes = []
    if has_more(adapter):
        notes.append("what the adapter trains in full (a head, biases, a prefix) stays on throughout")
    if results.gain <= 0:
        notes.append("the adapter does not improve the metric here, so that there is no gain to share out")
    return notes


def _draw(results: Contributions, path: Path, title: str) -> None:
    panels = {by: [each for each in results.parts if each.part.by == by] for by in TITLES}
    panels = {by: members for by, members in panels.items() if members}
    widths = [max(2.6, 0.9 + 0.42 * len(members)) for members in panels.values()]
    with picture(path, title, 0.8 + sum(widths), 4.2) as figure:
        grid = figure.subplots(1, len(panels), squeeze=False, sharey=True, width_ratios=widths)[0]
        for axes, (by, members) in zip(grid, panels.items(), strict=True):
            _bars(axes, members)
            up = "share of the whole gain" if axes is grid[0] else ""
            style(axes, TITLES[by], up=up, grid="y", frame=("left",))
        legend_below(figure, grid[0])


def _bars(axes: Any, members: Sequence[Contribution]) -> None:
    names = [each.part.name for each in members]
    lost, alone = ([getattr(each, name) for each in members] for name in ("lost_share", "alone_share"))
    places = range(len(members))
    axes.bar([place - 0.2 for place in places], lost, 0.4, color=COLOURS[0], label="lost when switched off")
    axes.bar([place + 0.2 for place in places], alone, 0.4, color=COLOURS[5], label="reached by it alone")
    turned = len(names) > MOST_UPRIGHT or max(map(len, names)) > len("q_proj") + 2
    axes.set_xticks(places, names, rotation=90 if turned else 0)
    axes.axhline(0, color=INK, linewidth=0.8)
    in_per_cent(axes.yaxis)
