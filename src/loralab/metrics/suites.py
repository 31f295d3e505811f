"""The metrics that a task's table reports together, each suite as the task's official script computes it."""

from collections.abc import Sequence

from loralab.metrics.rouge import rouge_1, rouge_2, rouge_l
from loralab.metrics.scores import Scores


def score_rouge(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """ROUGE-1, ROUGE-2 and ROUGE-L, as `loralab.metrics.rouge` states them."""
    metrics = {metric.__name__: metric(predictions, references) for metric in (rouge_1, rouge_2, rouge_l)}
    return Scores(metrics)


score_e2e = score_rouge  # until the suite is written
