"""ROUGE of generated texts, as Google's `rouge-score` counts it: F1 on a 0–100 scale (Lin 2004).

    R = shared / those of the reference,   P = shared / those of the prediction,   F1 = 2PR / (P + R)

Words are those of `rouge_words`, without stemming: in English the package's own, in other scripts Unicode's. ROUGE-L is
that of the whole text as one sequence. With several references the best one counts; the score of many texts
is the mean over them. The package itself is what the tests compare with: to import it takes seconds, for a stemmer.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from loralab.metrics.scores import check_pairs
from loralab.metrics.tokens import rouge_words

F1 = Callable[[list[str], list[str]], float]
"""(words of a prediction, words of a reference) -> F1."""


def rouge_1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """F1 of single words, 0–100."""
    return _mean(_f1_of_words, predictions, references)


def rouge_2(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """F1 of pairs of neighbouring words, 0–100."""
    return _mean(_f1_of_pairs, predictions, references)


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """F1 of the longest common subsequence of words, 0–100."""
    return _mean(_f1_of_order, predictions, references)


def longest_common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Its length, by the bits of one integer (Hyyrö 2004): a zero in `open_places` is a word of `one` that is used."""
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    open_places = whole = (1 << len(one)) - 1
    for word in other:
        matching = open_places & places.get(word, 0)
        open_places = (open_places + matching) | (open_places - matching)
    return len(one) - (open_places & whole).bit_count()


def _mean(f1: F1, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Raises `DataError` where predictions and references do not pair up, or a text has no reference."""
    check_pairs(predictions, references)
    best = [
        max(f1(rouge_words(prediction), rouge_words(reference)) for reference in answers)
        for prediction, answers in zip(predictions, references, strict=True)
    ]
    return 100.0 * sum(best) / len(best)


def _f1_of_words(prediction: list[str], reference: list[str]) -> float:
    return _f1(_shared(Counter(prediction), Counter(reference)), len(prediction), len(reference))


def _f1_of_pairs(prediction: list[str], reference: list[str]) -> float:
    one, other = Counter(pairwise(prediction)), Counter(pairwise(reference))
    return _f1(_shared(one, other), one.total(), other.total())


def _f1_of_order(prediction: list[str], reference: list[str]) -> float:
    return _f1(longest_common_subsequence(reference, prediction), len(prediction), len(reference))


def _shared(one: Counter[Any], other: Counter[Any]) -> int:
    return (one & other).total()


def _f1(shared: int, predicted: int, wanted: int) -> float:
    if not shared:
        return 0.0
    precision, recall = shared / predicted, shared / wanted
    return 2 * precision * recall / (precision + recall)
