"""How loose a figure on few examples is."""

import math

ENOUGH = 50
"""Below so many examples a figure is said to be loose."""


def few_examples(count: int) -> tuple[str, ...]:
    """A sentence for figures measured on fewer than `ENOUGH` examples.

    The 95% interval of a share p of n is p ± 1.96·√(p(1−p)/n), at its widest ± 0.98/√n.
    """
    if count >= ENOUGH:
        return ()
    loose = min(100, round(98 / math.sqrt(count)))
    return (
        f"measured on {count} example{'s' * (count > 1)} only: such figures are loose, an accuracy by up to ±{loose} "
        f"points; hold out at least {ENOUGH} (validation or validation_share)",
    )
