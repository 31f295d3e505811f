"""How figures of a comparison are written for people: spreads, times, sizes. Knows nothing of where they come from."""

from loralab.experiments.comparison.rows import Spread


def spread_text(spread: Spread) -> str:
    """Mean ± standard deviation, two digits behind the point, three below 10; a single seed has no ±."""
    digits = 3 if abs(spread.mean) < 10 else 2
    return f"{spread.mean:.{digits}f}" + (f" ± {spread.sd:.{digits}f}" if spread.n > 1 else "")


def readable_time(seconds: float) -> str:
    """`34 s`, `12 min`, `3 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def count_text(value: float | None, unit: str = "") -> str:
    """Thousands separated; `-` for what is not there."""
    return "-" if value is None else f"{value:,.0f}{unit}"
