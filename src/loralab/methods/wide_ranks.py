"""Ranks above the width of the matrix they update: right, and wasteful.

B·A has at most the rank of the smaller side of W. PEFT draws such factors without a word, so that files hold them and
`all-linear` meets layers that are narrower than the rank. They compute what they say.
"""

from collections.abc import Iterator, Mapping

from loralab.core.updates.factors import Factors
from loralab.core.updates.update import WHOLE, Update
from loralab.errors import listed

SHOWN = 4


def rank_notes(updates: Mapping[str, Update]) -> list[str]:
    """What to tell the user of plain pairs that are wider than the matrix they update: one sentence, or none."""
    found = [each for path, update in updates.items() for each in _wide(path, update)]
    if not found:
        return []
    return [
        f"the rank is above a layer's width, which no update of it can use: {listed(found, SHOWN)}. It "
        "computes the same as a smaller rank could (rank_pattern sets the rank per module)"
    ]


def _wide(path: str, update: Update) -> Iterator[str]:
    for part in update.parts:
        if isinstance(update.delta_of(part), Factors):
            A, B = update.matrices(part)
            O, R, I = *B.shape[-2:], A.shape[-1]  # noqa: E741
            if min(O, I) < R:
                yield f"{path if part == WHOLE else f'{path}[{part}]'} ({O}×{I}, rank {R})"
