"""ROUGE-L and CIDEr as coco-caption computes them, by pycocoevalcap's Python classes.

Their words are those of `caption_words`: lower-cased, without punctuation, split in Python and not, as coco-caption
does, in Java. That moves tgen's ROUGE-L and CIDEr on E2E by less than 0.001 and 0.0005.
"""

from collections.abc import Sequence

from loralab.extras import lazy
from loralab.metrics.scores import check_pairs
from loralab.metrics.scripts import spread
from loralab.metrics.tokens import caption_words

coco_rouge, coco_cider = lazy("pycocoevalcap.rouge.rouge", "metrics"), lazy("pycocoevalcap.cider.cider", "metrics")

Captions = dict[int, list[str]]
"""number of the text -> its captions, words parted by single spaces."""


def caption_rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """F of the longest common subsequence with β = 1.2, each of its sides from the best reference; mean, 0–100.

    Not Google's ROUGE-L of `loralab.metrics.rouge`. Raises `DataError` where predictions and references do not pair
    up, and `MissingDependencyError` without pycocoevalcap.
    """
    scorer = coco_rouge.Rouge()
    return 100.0 * float(scorer.compute_score(*_captions(predictions, references))[0])


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr-D (Vedantam et al. 2015) in its own unit, 0 to 10; the references of all texts weigh the words.

    So it is 0 for a single text, and where no reference has a word. Raises as `caption_rouge_l`.
    """
    scorer = coco_cider.Cider()
    answers, outputs = _captions(predictions, references)
    if not any(answer for each in answers.values() for answer in each):
        return 0.0  # the package finds no maximum of nothing
    return float(scorer.compute_score(answers, outputs)[0])


def _captions(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[Captions, Captions]:
    """The references' captions, then the outputs'."""
    check_pairs(predictions, references)
    outputs, answers = spread(predictions, references)
    captions = {number: [_caption(text) for text in texts] for number, texts in enumerate(answers)}
    return captions, {number: [_caption(text)] for number, text in enumerate(outputs)}


def _caption(text: str) -> str:
    return " ".join(caption_words(text))
