"""The metrics of labels by name, and which way each metric of the contract points. A new one is one row here."""

from collections.abc import Callable, Sequence

from loralab.metrics.classification import accuracy, f1, matthews, pearson, spearman

LABEL_METRICS: dict[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
"""name -> function of the predicted and the expected classes or values."""

LOWER_IS_BETTER = ("loss", "perplexity", "ter", "unparsable")
"""Of all metrics of the contract, those that measure an error."""


def higher_is_better(name: str) -> bool:
    """Whether a larger value of the metric `name` is the better one."""
    return name not in LOWER_IS_BETTER
