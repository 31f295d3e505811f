"""The metrics by name. A new metric is one function and one row here."""

from collections.abc import Callable, Sequence

from loralab.metrics.classification import accuracy, f1, matthews, pearson, spearman
from loralab.metrics.rouge import rouge_1, rouge_2, rouge_l

TEXT_METRICS: dict[str, Callable[[Sequence[str], Sequence[Sequence[str]]], float]] = {
    "rouge_1": rouge_1,
    "rouge_2": rouge_2,
    "rouge_l": rouge_l,
}
"""name -> function of the predicted texts and each one's references."""

LABEL_METRICS: dict[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
"""name -> function of the predicted and the expected classes or values."""

LOWER_IS_BETTER = ("loss", "perplexity", "ter")
"""Of all metrics of the contract, those that measure an error."""


def higher_is_better(name: str) -> bool:
    """Whether a larger value of the metric `name` is the better one."""
    return name not in LOWER_IS_BETTER
