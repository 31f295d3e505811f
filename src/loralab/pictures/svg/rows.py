"""Values in rows, one below the other: bars from a line, or points with the interval that they may lie in."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from loralab.pictures.svg.drawing import (
    BOTTOM,
    LONGEST,
    RIGHT,
    TOP,
    WIDTH,
    Drawing,
    Scale,
    figure_text,
    label,
    line,
    scale_of,
    series_class,
    shortened,
    svg,
    with_note,
)

LEFT, NAME, MARK = 8, 17, 13
"""Units: room at the left; the height of a row's name and of each of its marks."""
VALUE = 58
"""Room for the number behind a mark."""
CHANGE = 22
"""Letters of what stands beside a name."""


@dataclass(frozen=True)
class Mark:
    """One value of a row; `said` stands behind it."""

    value: float
    ends: tuple[float, float] | None = None
    said: str = ""
    series: int = 0


@dataclass(frozen=True)
class Lane:
    """A name and its values."""

    name: str
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Rows:
    """A panel."""

    title: str
    across: str
    rows: Sequence[Lane]
    legend: Mapping[int, str] = field(default_factory=dict)
    """Names by the number of the series."""
    bars: bool = False
    """Bars from `origin`; else points."""
    origin: float | None = None
    """A vertical line here."""
    band: tuple[float, float] | None = None
    """What is shaded."""
    ratios: bool = False
    bounds: tuple[float, float] = (-math.inf, math.inf)
    chained: bool = False
    """The marks of a row stand on one line, joined: before and after. What the last says stands beside the name."""


def draw_rows(rows: Rows) -> Drawing | None:
    """The drawing; None where no value is finite. A row without one says so."""
    values = list(_values(rows))
    if not values:
        return None
    scale = scale_of(values, logarithmic=rows.ratios, bounds=rows.bounds)
    heights = [NAME + MARK * (1 if rows.chained else len(each.marks)) + 4 for each in rows.rows]
    height = TOP + sum(heights) + BOTTOM
    body = "".join(_parts(rows, scale, heights, height))
    return Drawing(rows.title, svg(rows.title, height, body), rows.legend)


def _values(rows: Rows) -> Iterator[float]:
    for mark in (mark for row in rows.rows for mark in row.marks if math.isfinite(mark.value)):
        yield from (mark.value, *(mark.ends or ()))
    if rows.origin is not None:
        yield rows.origin
    yield from rows.band or ()


def _x(value: float, scale: Scale) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT - VALUE) * scale.share(value)


def _parts(rows: Rows, scale: Scale, heights: Sequence[float], height: float) -> Iterator[str]:
    end = height - BOTTOM
    if rows.band is not None:
        left, right = (_x(value, scale) for value in rows.band)
        mark = f'<rect class="noise" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{end - TOP:.1f}"/>'
        yield with_note(mark, f"{figure_text(rows.band[0])} to {figure_text(rows.band[1])}")
    ticks = "".join(
        line(_x(value, scale), TOP, _x(value, scale), end) + label(_x(value, scale), end + 15, text)
        for value, text in scale.ticks(4)
    )
    yield f'<g class="axes">{ticks}{label(LEFT + (WIDTH - LEFT - RIGHT - VALUE) / 2, height - 4, rows.across)}</g>'
    if rows.origin is not None:
        yield line(_x(rows.origin, scale), TOP, _x(rows.origin, scale), end, "origin")
    y = float(TOP)
    for row, high in zip(rows.rows, heights, strict=True):
        most = LONGEST - (CHANGE if rows.chained else 0)
        yield with_note(label(LEFT, y + 12, shortened(row.name, most), "start", "name"), row.name)
        if rows.chained and row.marks:
            yield label(WIDTH - RIGHT, y + 12, row.marks[-1].said, "end", "said")
        yield from _marks(row, rows, scale, y + NAME)
        y += high


def _marks(row: Lane, rows: Rows, scale: Scale, y: float) -> Iterator[str]:
    finite = [mark for mark in row.marks if math.isfinite(mark.value)]
    if rows.chained and len(finite) > 1:
        first, last = (_x(mark.value, scale) for mark in (finite[0], finite[-1]))
        yield line(first, y + MARK / 2, last, y + MARK / 2, "level")
    for number, mark in enumerate(row.marks):
        middle = y + MARK / 2 + (0 if rows.chained else MARK * number)
        if not math.isfinite(mark.value):
            yield label(LEFT, middle + 4, "not a finite number", "start", "said")
            continue
        drawn = _bar(mark, rows, scale, middle) if rows.bars else _point(mark, scale, middle, quiet=rows.chained)
        yield f'<g class="{series_class(mark.series)}">{with_note(drawn, f"{row.name}: {figure_text(mark.value)}")}</g>'


def _bar(mark: Mark, rows: Rows, scale: Scale, middle: float) -> str:
    zero = rows.origin if rows.origin is not None else scale.low
    left, right = sorted((_x(zero, scale), _x(mark.value, scale)))
    box = f'<rect x="{left:.1f}" y="{middle - 4.5:.1f}" width="{max(right - left, 0.5):.1f}" height="9" rx="1"/>'
    return box + label(right + 5, middle + 4, mark.said or figure_text(mark.value), "start", "said")


def _point(mark: Mark, scale: Scale, middle: float, *, quiet: bool) -> str:
    x = _x(mark.value, scale)
    parts = [f'<circle cx="{x:.1f}" cy="{middle:.1f}" r="3.8"/>']
    right = x
    if mark.ends is not None:
        low, right = (_x(end, scale) for end in mark.ends)
        caps = "".join(line(at, middle - 3.5, at, middle + 3.5) for at in (low, right))
        ends = f'data-low="{mark.ends[0]:g}" data-high="{mark.ends[1]:g}"'
        parts.append(f'<g class="bar" {ends}>{line(low, middle, right, middle)}{caps}</g>')
    if mark.said and not quiet:
        parts.append(label(max(x, right) + 8, middle + 4, mark.said, "start", "said"))
    return "".join(parts)
