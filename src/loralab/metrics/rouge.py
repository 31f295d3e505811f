"""ROUGE of generated texts, by Google's `rouge-score`: F1 on a 0–100 scale.

Words are those of `rouge_words`, without stemming: in English the package's own, in other scripts Unicode's. ROUGE-L is
that of the whole text as one sequence. With several references the best one counts; the score of many texts
is the mean over them.
"""

from collections.abc import Sequence

from loralab.extras import lazy
from loralab.metrics.scores import check_pairs
from loralab.metrics.tokens import rouge_words

rouge_scorer = lazy("rouge_score.rouge_scorer", "metrics")


class _Words:
    """How the package asks for words."""

    def tokenize(self, text: str) -> list[str]:
        return rouge_words(text)


def rouge_1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """F1 of single words, 0–100."""
    return _mean_f1("rouge1", predictions, references)


def rouge_2(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """F1 of pairs of neighbouring words, 0–100."""
    return _mean_f1("rouge2", predictions, references)


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """F1 of the longest common subsequence of words, 0–100."""
    return _mean_f1("rougeL", predictions, references)


def _mean_f1(kind: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Raises `DataError` where predictions and references do not pair up, or a text has no reference."""
    check_pairs(predictions, references)
    scorer = rouge_scorer.RougeScorer([kind], tokenizer=_Words())
    best = [
        max(float(scorer.score(reference, prediction)[kind].fmeasure) for reference in answers)
        for prediction, answers in zip(predictions, references, strict=True)
    ]
    return 100.0 * sum(best) / len(best)
