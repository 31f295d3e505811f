"""Corpus BLEU-4 by sacrebleu, without regard to case and without smoothing, on a 0–100 scale.

Any number of references per text; the closest reference length counts, the shorter of two equally close ones.
Where no output shares a run of four tokens with its references the score is 0. Characters of a script without
spaces are tokens, as in sacrebleu's `zh`.
"""

from collections.abc import Sequence
from itertools import zip_longest

from loralab.extras import lazy
from loralab.metrics.scores import check_pairs
from loralab.metrics.scripts import spread

sacrebleu = lazy("sacrebleu.metrics.bleu", "metrics")


def bleu_mteval(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """On the tokens of mteval-v13a, from ordinary text: as the E2E challenge's script and multi-bleu-detok.perl."""
    return _corpus_bleu(predictions, references, "13a")


def bleu_tokenized(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """On the tokens between spaces: as `multi-bleu.perl -lc`.

    A blank reference shares no token, but its length 0 takes part where the closest reference length is chosen.
    """
    return _corpus_bleu(predictions, references, "none")


def _corpus_bleu(predictions: Sequence[str], references: Sequence[Sequence[str]], tokens: str) -> float:
    """Raises `DataError` where predictions and references do not pair up."""
    check_pairs(predictions, references)
    scorer = sacrebleu.BLEU(lowercase=True, tokenize=tokens, smooth_method="none", force=True)
    outputs, answers = spread(predictions, references)
    by_place = list(zip_longest(*answers))  # all first references, all second ones, …; None where there are fewer
    return min(100.0, float(scorer.corpus_score(outputs, by_place).score))  # sacrebleu rounds above it
