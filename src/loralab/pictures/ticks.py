"""Where the ticks of an axis stand, how short their numbers are, and which of many things are shown.

Pure arithmetic, for every way of drawing.
"""

import math

_STEPS = (1, 2, 2.5, 5, 10, 20)
_PREFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def short_count(count: float) -> str:
    """Up to three digits and a letter: 768, 26k, 1.2M, 175B."""
    for size, letter in _PREFIXES:
        if abs(count) >= 0.9995 * size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.3g}"


def spread(count: int, most: int) -> list[int]:
    """Places among `count` things: all, or `most` evenly spaced ones, the first and the last among them."""
    return list(range(count)) if count <= most else [round(at * (count - 1) / (most - 1)) for at in range(most)]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Ticks between two sizes above 0 on a scale of ratios: 1, 2 and 5 times powers of ten, fewer where these are more
    than `most`. Between ends that hold fewer than two of those, as on a linear scale.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**power for power in powers for digit in digits if low <= digit * 10.0**power <= high]
        if 2 <= len(ticks) <= most:
            return ticks
    if len(ticks) > most:
        return ticks[:: math.ceil(len(ticks) / most)]
    return [tick for tick in linear_ticks(low, high, 3) if tick > 0]


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most so many round numbers from `low` to `high`, evenly apart; the one number where both are the same."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    return next(ticks for digit in _STEPS if len(ticks := _multiples(low, high, digit * power)) <= most)


def _multiples(low: float, high: float, step: float) -> list[float]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]
