"""A matrix as cells of one colour, the fuller the larger; it reads the same on light and on dark paper."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loralab.pictures.svg.drawing import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Drawing,
    escaped,
    figure_text,
    label,
    shortened,
    svg,
)
from loralab.pictures.ticks import spread

HEIGHT = 250
ACROSS, DOWN = 30, 20
"""Letters of what stands below for both directions."""
MOST = 32
"""Cells along a side; of a larger matrix evenly spaced rows and columns."""


@dataclass(frozen=True)
class Cells:
    """A panel; a value that is None or not finite is left empty."""

    title: str
    across: str
    down: str
    values: Sequence[Sequence[float | None]]
    highest: float
    """The fullest colour; the emptiest is 0."""
    columns: Sequence[object]
    rows: Sequence[object]
    from_below: bool = False
    """The first row is the lowest."""
    marked: Sequence[tuple[int, int]] = ()
    """Row and column of cells with a ring."""


def draw_cells(cells: Cells) -> Drawing | None:
    """The drawing; None for an empty matrix."""
    if not cells.values or not cells.values[0]:
        return None
    rows, columns = spread(len(cells.values), MOST), spread(len(cells.values[0]), MOST)
    wide, high = (WIDTH - LEFT - RIGHT) / len(columns), (HEIGHT - TOP - BOTTOM - 22) / len(rows)
    body = "".join(_parts(cells, rows, columns, wide, high))
    return Drawing(cells.title, svg(cells.title, HEIGHT, body))


def _parts(
    cells: Cells, rows: Sequence[int], columns: Sequence[int], wide: float, high: float
) -> Iterator[str]:  # fmt: skip
    bottom = TOP + high * len(rows)
    for down, row in enumerate(rows):
        y = bottom - high * (down + 1) if cells.from_below else TOP + high * down
        for across, column in enumerate(columns):
            yield _cell(cells, row, column, (LEFT + wide * across, y, wide, high))
        if down % math.ceil(len(rows) / 8) == 0:
            yield f'<g class="axes">{label(LEFT - 5, y + high / 2 + 4, str(cells.rows[row]), "end")}</g>'
    for across, column in enumerate(columns):
        if across % math.ceil(len(columns) / 8) == 0:
            text = label(LEFT + wide * (across + 0.5), bottom + 14, str(cells.columns[column]))
            yield f'<g class="axes">{text}</g>'
    way = "up" if cells.from_below else "down"
    scale = f"{shortened(cells.across, ACROSS)} ({way}: {shortened(cells.down, DOWN)})"
    yield f'<g class="axes">{label(LEFT + (WIDTH - LEFT - RIGHT) / 2, bottom + 31, scale)}</g>'
    yield _key(cells.highest, bottom + 38)


def _cell(cells: Cells, row: int, column: int, box: tuple[float, float, float, float]) -> str:
    value = cells.values[row][column]
    if value is None or not math.isfinite(value):
        return ""
    x, y, wide, high = box
    full = min(1.0, max(0.0, value / cells.highest)) if cells.highest else 0.0
    note = f"{cells.down} {cells.rows[row]}, {cells.across} {cells.columns[column]}: {figure_text(value)}"
    ring = ' class="ringed"' if (row, column) in cells.marked else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide - 0.6:.1f}" height="{high - 0.6:.1f}" '
        f'fill-opacity="{0.04 + 0.96 * full:.2f}"{ring}><title>{escaped(note)}</title></rect>'
    )


def _key(highest: float, y: float) -> str:
    """What empty and full mean."""
    boxes = "".join(
        f'<rect x="{LEFT + 22 + 18 * step:.1f}" y="{y:.1f}" width="17" height="9" '
        f'fill-opacity="{0.04 + 0.96 * step / 5:.2f}"/>'
        for step in range(6)
    )
    ends = label(LEFT + 12, y + 9, "0") + label(LEFT + 136, y + 9, figure_text(highest), "start")
    return f'<g class="axes">{ends}</g>{boxes}'
