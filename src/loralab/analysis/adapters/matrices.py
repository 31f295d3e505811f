"""What each kind of matrix and each block contributes to an adapter's gain: the question of the paper's Tables 5 and 6,
asked of one trained adapter by switching its parts off.

    lost(P) = (m(all) − m(all but P)) / (m(all) − m(none))     what goes with P
    alone(P) = (m(P) − m(none)) / (m(all) − m(none))           what P does by itself

m is the metric with its sign such that more is better. The shares of several parts need not sum to 1: parts stand in
for each other (lost is small, alone is large) or need each other (the other way round). Trained alone, under the same
budget, as the paper trains them, matrices may do more than they do alone here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from loralab.analysis.adapters.deltas import kind_of_module, layer_number
from loralab.analysis.adapters.measurement import Measurement
from loralab.analysis.adapters.parts import Cell, cells_of, switched_off
from loralab.core.adapter import Adapter
from loralab.core.updates.update import WHOLE

OUTSIDE = "outside blocks"


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
        layers.setdefault(layer_number(path), []).append((path, part))
    found = [Part("kind", name, tuple(members)) for name, members in kinds.items()]
    found += [Part("layer", name, tuple(members)) for name, members in _grouped(layers, layer_groups)]
    return found


def contributions(adapter: Adapter, measure: Measurement, parts: Sequence[Part]) -> Contributions:
    """Measure without and with each part alone; the adapter is afterwards as it was, bit for bit."""
    cells = cells_of(adapter)
    whole = measure()
    with switched_off(measure.model, adapter, cells):
        none = measure()
    measure.announce(2 * len(parts))
    gain = measure.gain(none, whole)
    found = []
    for part in parts:
        with switched_off(measure.model, adapter, part.cells):
            without = measure()
        with switched_off(measure.model, adapter, [cell for cell in cells if cell not in part.cells]):
            alone = measure()
        shares = [measure.gain(*each) / gain if gain > 0 else None for each in ((without, whole), (none, alone))]
        found.append(Contribution(part, without, alone, *shares))
    return Contributions(none, whole, gain, tuple(found))


def _grouped(layers: Mapping[int | None, list[Cell]], most: int | None) -> Iterator[tuple[str, list[Cell]]]:
    numbers = sorted(number for number in layers if number is not None)
    count = len(numbers) if most is None else min(most, len(numbers))
    for group in range(count):
        members = numbers[group * len(numbers) // count : (group + 1) * len(numbers) // count]
        name = str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}"
        yield name, [cell for number in members for cell in layers[number]]
    if None in layers:
        yield OUTSIDE, layers[None]
