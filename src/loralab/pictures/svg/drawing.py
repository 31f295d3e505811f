"""A drawing for a page: its SVG, 360 units wide so that its words are readable on a telephone, and what its colours
mean. Colours come from the page's style: `series-0` to `series-6`, `axes`, `level`, `band`.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from loralab.pictures.ticks import linear_ticks, log_ticks, short_count

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 360, 44, 8, 8, 36
"""Of every drawing and of the room around its panel, in its own units."""
SERIES = 7
"""How many colours a page has; the next series begins again."""
LETTER = 6.6
"""How wide a digit on an axis is."""
LONGEST = 52
"""Letters of a label that fit on a line."""


@dataclass(frozen=True)
class Drawing:
    """What a page shows as a figure."""

    title: str
    svg: str
    legend: Mapping[int, str] = field(default_factory=dict)
    """Names by the number of the series; one alone needs none."""


@dataclass(frozen=True)
class Scale:
    """Where values stand between two ends, as shares of 1; a scale of ratios where it is logarithmic."""

    low: float
    high: float
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """0 at the lower end, 1 at the upper."""
        low, high, at = (
            (map(math.log, (self.low, self.high, value))) if self.logarithmic else (self.low, self.high, value)
        )
        return (at - low) / (high - low) if high > low else 0.5

    def ticks(self, most: int = 5) -> list[tuple[float, str]]:
        """Round values within the ends, and how they are written."""
        values = (log_ticks if self.logarithmic else linear_ticks)(self.low, self.high, most)
        texts = (short_count(value) if self.logarithmic else tick_text(value, values) for value in values)
        return list(zip(values, texts, strict=True))


def scale_of(
    values: Sequence[float], *, logarithmic: bool = False, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Scale:
    """One that holds these values with a little room, and never goes beyond `bounds`."""
    low, high = min(values), max(values)
    if logarithmic:
        return Scale(low / 1.2, high * 1.2, logarithmic=True)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return Scale(max(low - room, min(bounds[0], low)), min(high + room, max(bounds[1], high)))


def tick_text(value: float, among: Sequence[float]) -> str:
    """As many digits as tell neighbouring ticks apart; large counts in short."""
    if max(map(abs, among)) >= 1000:
        return short_count(value).replace("-", "−")
    step = min((b - a for a, b in pairwise(among)), default=abs(value) or 1.0)
    if step < 1e-4:
        return f"{value:.3g}".replace("-", "−")
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    written = f"{value:.{digits}f}"
    exact = written if math.isclose(float(written), value, abs_tol=step / 100) else f"{value:.{digits + 1}f}"
    return exact.replace("-", "−")


def svg(title: str, height: float, body: str) -> str:
    """The element, with the title as its accessible name."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escaped(title)}">'
        f"<title>{escaped(title)}</title>{body}</svg>"
    )


def escaped(text: object) -> str:
    """For HTML, and for the values of attributes."""
    return html.escape(str(text))


def shortened(text: str, most: int = LONGEST) -> str:
    """So that it fits: the middle of a long name is left out, since names differ at their ends."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def label(x: float, y: float, text: str, anchor: str = "middle", name: str = "") -> str:
    """A line of text; `name` is a class."""
    kind = f' class="{name}"' if name else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escaped(text)}</text>'


def room_for(texts: Iterable[str]) -> float:
    """How far from the left a panel begins whose axis has these texts before it."""
    return max([LEFT, *(LETTER * len(text) + 7 for text in texts)])


def line(x1: float, y1: float, x2: float, y2: float, name: str = "") -> str:
    """A straight line."""
    kind = f' class="{name}"' if name else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{kind}/>'


def with_note(mark: str, note: str) -> str:
    """A mark that says what it is when pointed at."""
    return f"<g>{mark}<title>{escaped(note)}</title></g>"


def series_class(number: int) -> str:
    """The colour of a series."""
    return f"series-{number % SERIES}"


def figure_text(value: float) -> str:
    """Four significant digits, for notes."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
