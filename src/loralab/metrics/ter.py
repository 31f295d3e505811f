"""Translation edit rate (Snover et al. 2006), by sacrebleu: edits per reference token, on a 0–100 scale.

Edits are insertions, deletions, substitutions and shifts of tokens between spaces (in a script without spaces: of its
characters), without regard to case; lower is better, and outputs much longer than their references score above 100.
sacrebleu searches the shifts; the distances that it asks for, which take nearly all of its time, are ours. Scripts
differ in how many texts make one figure, hence two functions.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

from loralab.extras import lazy
from loralab.metrics.edit_distance import EditDistance
from loralab.metrics.scores import present_references
from loralab.metrics.scripts import spread

lib_ter = lazy("sacrebleu.metrics.lib_ter", "metrics")

Tokens = list[str]


def corpus_ter(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """As tercom 7.25: all texts' edits to their nearest references / all texts' average reference lengths.

    Blank references are none. Raises `DataError` where predictions and references do not pair up or all references
    of one are blank.
    """
    pairs = _tokenized(predictions, references)
    edits = sum(_lowest(output, answers, lambda edits, answer: edits) for output, answers in pairs)
    length = sum(sum(map(len, answers)) / len(answers) for _, answers in pairs)
    return 100.0 * edits / length


def mean_ter(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """As GenerationEval: the mean over the texts of each one's lowest rate.

    GenerationEval counts edits with pyter, which finds fewer shifts: on ADAPT's WebNLG outputs it is 1 point higher.
    Blank references are none. Raises as `corpus_ter`.
    """
    pairs = _tokenized(predictions, references)
    rates = [_lowest(output, answers, lambda edits, answer: edits / len(answer)) for output, answers in pairs]
    return 100.0 * sum(rates) / len(rates)


def _tokenized(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[tuple[Tokens, list[Tokens]]]:
    present = present_references(predictions, references)
    return [
        (output.lower().split(), [answer.lower().split() for answer in answers])
        for output, answers in zip(*spread(predictions, present), strict=True)
    ]


def _lowest(output: Tokens, answers: Sequence[Tokens], cost: Callable[[float, Tokens], float]) -> float:
    """The lowest `cost` of the edits to any of the references.

    Edits take long to find, so references are tried from the most promising, as long as one can be better.
    """
    lowest = math.inf
    bounds = [(cost(_fewest_possible(output, answer), answer), answer) for answer in answers]
    for bound, answer in sorted(bounds, key=lambda each: each[0]):
        if bound >= lowest:
            break
        lowest = min(lowest, cost(_edits(output, answer), answer))
    return lowest


def _edits(output: Tokens, answer: Tokens) -> int:
    """Shifts that lower the edit distance, the best one first while there is one, and the distance that is left."""
    distance = EditDistance(answer)
    shifts, candidates = 0, 0
    while True:
        gain, shifted, candidates = lib_ter._shift(output, answer, distance, candidates)
        if gain <= 0 or candidates >= lib_ter._MAX_SHIFT_CANDIDATES:
            return shifts + distance(output)[0]
        shifts, output = shifts + 1, shifted


def _fewest_possible(output: Tokens, answer: Tokens) -> int:
    """A lower bound: every token that the other side lacks takes an edit, whatever the order."""
    shared = (Counter(output) & Counter(answer)).total()
    return max(len(output), len(answer)) - shared
