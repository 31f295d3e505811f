"""The edit distance of two lists of tokens, bit-parallel (Myers 1999, in Hyyrö's form), for TER's many questions.

One column of the table of distances is a pair of integers, a bit for each token of the reference: where the distance
rises by one from one row to the next, and where it falls. So a token of the output takes a dozen operations on
integers, whatever the reference's length. It knows nothing of TER.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loralab.extras import lazy

if TYPE_CHECKING:
    from sacrebleu.metrics.lib_ter import BeamEditDistance

lib_ter = lazy("sacrebleu.metrics.lib_ter", "metrics")


class Trace:
    """The edits between output and reference, found when they are asked for."""

    def __init__(self, search: "BeamEditDistance", output: list[str]) -> None:
        self._search = search
        self._output = output

    def translate(self, table: dict[int, int]) -> str:
        """As `str.translate`, of sacrebleu's letters for the edits."""
        return str(self._search(self._output)[1]).translate(table)


class EditDistance:
    """Distances of outputs to one reference: insertions, deletions and substitutions of tokens, each of cost 1.

    Called as sacrebleu's own class. That one looks only near the diagonal, as tercom does, which makes a difference
    where an output has runs of dozens of surplus tokens; its alignment is used here, not its distance.
    """

    def __init__(self, reference: list[str]) -> None:
        self._length = len(reference)
        self._search = lib_ter.BeamEditDistance(reference)
        self._places: dict[str, int] = {}
        for place, token in enumerate(reference):
            self._places[token] = self._places.get(token, 0) | 1 << place

    def __call__(self, output: list[str]) -> tuple[int, Trace]:
        """(the distance, the edits)."""
        return self.distance(output), Trace(self._search, output)

    def distance(self, output: Sequence[str]) -> int:
        """The fewest edits that make the reference of the output."""
        if not self._length:
            return len(output)
        every, last = (1 << self._length) - 1, 1 << (self._length - 1)
        rises, falls, distance = every, 0, self._length
        for token in output:
            equal = self._places.get(token, 0)
            diagonal = (((equal & rises) + rises) ^ rises) | equal | falls
            right_rises = falls | ~(diagonal | rises) & every
            right_falls = rises & diagonal
            distance += bool(right_rises & last) - bool(right_falls & last)
            right_rises = right_rises << 1 | 1
            rises = (right_falls << 1 | ~(diagonal | right_rises)) & every
            falls = right_rises & diagonal & every
        return distance
