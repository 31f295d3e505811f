"""NIST-5 (Doddington 2002) as the E2E challenge published it, in its own unit.

Written by hand, as no library gives the published figures: those that have NIST at all, and the challenge's
later Python script, take another reference length for brevity. Here it is the average over all references of the
corpus times the number of texts (in tgen's case 16695 tokens; the mean per text, summed, would be 17031). Tokens
are mteval-v13a's, in lower case; in a script without spaces its characters.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from loralab.metrics.scores import check_pairs
from loralab.metrics.scripts import spread
from loralab.metrics.tokens import mteval_tokens

LONGEST = 5
"""Tokens of the longest n-gram."""

BREVITY_STEEPNESS = math.log(2) / math.log(1.5) ** 2
"""Chosen by NIST so that outputs of 2/3 of the references' length lose half of their score."""

Ngrams = Counter[tuple[str, ...]]


def nist(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """brevity · Σ_n (information of the n-grams shared with a reference) / (number of n-grams), n = 1 … 5.

    An n-gram is shared as often as in the reference that has it most often. Raises `DataError` where predictions
    and references do not pair up.
    """
    check_pairs(predictions, references)
    spread_outputs, spread_answers = spread(predictions, references)
    outputs = [mteval_tokens(text) for text in spread_outputs]
    answers = [[mteval_tokens(text) for text in texts] for texts in spread_answers]
    counted = [[_count_ngrams(tokens) for tokens in each] for each in answers]
    total = _total_counts(ngrams for each in counted for ngrams in each)
    gained, possible = [0.0] * (LONGEST + 1), [0] * (LONGEST + 1)
    for output, each in zip(outputs, counted, strict=True):
        for ngram, count in _count_ngrams(output).items():
            possible[len(ngram)] += count
            if ngram in total:
                shared = min(count, max(answer[ngram] for answer in each))
                bits = math.log2(total[ngram[:-1]] / total[ngram])  # that the last token tells after those before it
                gained[len(ngram)] += shared * bits
    information = sum(gain / count for gain, count in zip(gained, possible, strict=True) if count)
    return _brevity(outputs, answers) * information


def _count_ngrams(tokens: Sequence[str]) -> Ngrams:
    return Counter(
        tuple(tokens[start : start + length])
        for length in range(1, LONGEST + 1)
        for start in range(len(tokens) - length + 1)
    )


def _total_counts(counted: Iterable[Ngrams]) -> Ngrams:
    """How often each n-gram is in all references; the empty one as often as there are tokens."""
    total: Ngrams = Counter()
    for ngrams in counted:
        total.update(ngrams)
    total[()] = sum(count for ngram, count in total.items() if len(ngram) == 1)
    return total


def _brevity(outputs: Sequence[Sequence[str]], answers: Sequence[Sequence[Sequence[str]]]) -> float:
    """1 for outputs that are long enough in all, less for shorter ones, 0 for no token at all."""
    length = sum(len(tokens) for tokens in outputs)
    lengths = [len(tokens) for each in answers for tokens in each]
    expected = sum(lengths) / len(lengths) * len(outputs)
    if length >= expected:
        return 1.0
    return math.exp(-BREVITY_STEEPNESS * math.log(length / expected) ** 2) if length else 0.0
