"""Curves and points over a number: series with bands or bars, dashed levels, one marked point."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from loralab.pictures.svg.drawing import (
    BOTTOM,
    RIGHT,
    TOP,
    WIDTH,
    Drawing,
    Scale,
    figure_text,
    label,
    line,
    room_for,
    scale_of,
    series_class,
    svg,
    with_note,
)
from loralab.pictures.ticks import short_count

HEIGHT = 230
CAP = 3.5
"""Half the length of the line that ends a bar."""
DOTS = 40
"""A series of more points is a line alone."""
UNBOUNDED = (-math.inf, math.inf)

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """Points by x; `ends` are the lowest and highest y at each, as a band or as bars."""

    name: str
    points: Sequence[Point]
    ends: Sequence[Point] = ()
    band: bool = False
    joined: bool = True
    faint: bool = False


@dataclass(frozen=True)
class Curves:
    """A panel."""

    title: str
    across: str
    up: str
    series: Sequence[Series]
    levels: Mapping[str, float] = field(default_factory=dict)
    """Dashed horizontal lines, with their names."""
    places: Sequence[str] = ()
    """What stands at x = 0, 1, 2, …, where x is no number."""
    marked: Point | None = None
    stops: Sequence[float] = ()
    """The values of x that have ticks; else round ones."""
    whole: bool = False
    """x is counted."""
    ratios_across: bool = False
    ratios_up: bool = False
    bounds: Point = UNBOUNDED
    """Where y ends."""


def draw_curves(curves: Curves) -> Drawing | None:
    """The drawing; None where there is no finite point. What is not finite is left out."""
    shown = [clean for each in curves.series if (clean := _finite(each, curves)).points]
    if not shown:
        return None
    panel, names = _Panel(curves, shown), [each.name for each in shown]
    return Drawing(curves.title, svg(curves.title, HEIGHT, "".join(panel.parts())), dict(enumerate(names)))


def _finite(series: Series, curves: Curves) -> Series:
    ends = series.ends or [(y, y) for _, y in series.points]
    kept = [
        (point, end) for point, end in zip(series.points, ends, strict=True)
        if all(map(math.isfinite, (*point, *end)))
        and (point[0] > 0 or not curves.ratios_across) and (end[0] > 0 or not curves.ratios_up)
    ]  # fmt: skip
    return Series(
        series.name, [point for point, _ in kept], [end for _, end in kept] if series.ends else (), series.band,
        series.joined, series.faint,
    )  # fmt: skip


class _Panel:
    """Curves with their scales."""

    def __init__(self, curves: Curves, shown: Sequence[Series]) -> None:
        self.curves, self.shown = curves, shown
        xs = [x for each in shown for x, _ in each.points]
        ys = [y for each in shown for point in (*((y, y) for _, y in each.points), *each.ends) for y in point]
        levels = [level for level in curves.levels.values() if math.isfinite(level)]
        self.across = scale_of(xs, logarithmic=curves.ratios_across) if not curves.places else Scale(
            -0.4, len(curves.places) - 0.6
        )  # fmt: skip
        self.up = scale_of([*ys, *levels], logarithmic=curves.ratios_up, bounds=curves.bounds)
        self.left = room_for(text for _, text in self.up.ticks())

    def x(self, value: float) -> float:
        return self.left + (WIDTH - self.left - RIGHT) * self.across.share(value)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * self.up.share(value)

    def parts(self) -> Iterator[str]:
        yield f'<g class="axes">{"".join(self.axes())}</g>'
        for name, level in self.curves.levels.items():
            if math.isfinite(level):
                yield with_note(line(self.left, self.y(level), WIDTH - RIGHT, self.y(level), "level"), name)
                yield label(WIDTH - RIGHT, self.y(level) - 4, name, "end", "said")
        for number, each in enumerate(self.shown):
            faint = " faint" if each.faint else ""
            yield f'<g class="{series_class(number)}{faint}">{"".join(self.marks(each))}</g>'
        if self.curves.marked is not None:
            x, y = self.curves.marked
            yield f'<circle class="ring" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="8"/>'

    def axes(self) -> Iterator[str]:
        for value, text in self.up.ticks():
            yield line(self.left, self.y(value), WIDTH - RIGHT, self.y(value)) + label(
                self.left - 5, self.y(value) + 4, text, "end"
            )
        for value, text in self.ticks_across():
            yield label(self.x(value), HEIGHT - BOTTOM + 15, text)
        yield label(self.left + (WIDTH - self.left - RIGHT) / 2, HEIGHT - 4, self.curves.across)

    def ticks_across(self) -> list[tuple[float, str]]:
        places = self.curves.places
        if places:
            step = math.ceil(len(places) / 9)
            return [(float(at), places[at]) for at in range(0, len(places), step)]
        if self.curves.stops:
            return [(at, short_count(at)) for at in self.curves.stops]
        ticks = self.across.ticks()
        return [(at, short_count(at)) for at, _ in ticks if at.is_integer()] if self.curves.whole else ticks

    def marks(self, series: Series) -> Iterator[str]:
        places = [(self.x(x), self.y(y)) for x, y in series.points]
        if series.ends and series.band:
            yield f'<polygon class="band" points="{self.outline(series)}"/>'
        elif series.ends:
            yield from map(self.bar, series.points, series.ends)
        if series.joined and len(places) > 1:
            yield f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
        if len(places) <= DOTS:
            for (x, y), point in zip(places, series.points, strict=True):
                yield with_note(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>', f"{series.name}: {self.said(point)}")

    def said(self, point: Point) -> str:
        places, across = self.curves.places, self.curves.across
        at = places[int(point[0])] if places else figure_text(point[0])
        return f"{figure_text(point[1])} at {across} {at}"

    def outline(self, series: Series) -> str:
        above = [(x, high) for (x, _), (_, high) in zip(series.points, series.ends, strict=True)]
        below = [(x, low) for (x, _), (low, _) in zip(series.points, series.ends, strict=True)]
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in (*above, *reversed(below)))

    def bar(self, point: Point, ends: Point) -> str:
        x, low, high = self.x(point[0]), self.y(ends[0]), self.y(ends[1])
        caps = "".join(line(x - CAP, y, x + CAP, y) for y in (low, high))
        return f'<g class="bar" data-low="{ends[0]:g}" data-high="{ends[1]:g}">{line(x, low, x, high)}{caps}</g>'
