"""Scores of predicted classes and values, by scikit-learn and SciPy, on a 0–100 (correlations −100–100) scale.

A correlation with a constant is undefined (0/0); here it is 0.0, as a constant tells nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from loralab.errors import NumericsError
from loralab.extras import lazy
from loralab.metrics.scores import check_pairs

sklearn, stats = lazy("sklearn.metrics", "metrics"), lazy("scipy.stats", "metrics")

NEARLY_CONSTANT = 1e-12
"""Relative spread below which rounding, not the values, would decide a correlation."""

Values = Sequence[float]


def accuracy(predictions: Values, references: Values) -> float:
    """Share of right classes."""
    check_pairs(predictions, references)
    return 100.0 * float(sklearn.accuracy_score(references, predictions))


def f1(predictions: Values, references: Values) -> float:
    """F1 of class 1 where the classes are 0 and 1 (as GLUE's MRPC and QQP); else the mean over the classes.

    A class that is neither predicted nor right anywhere counts as 0.
    """
    check_pairs(predictions, references)
    binary = {*predictions, *references} <= {0, 1}
    average = "binary" if binary else "macro"
    return 100.0 * float(sklearn.f1_score(references, predictions, average=average, zero_division=0.0))


def matthews(predictions: Values, references: Values) -> float:
    """Matthews' correlation coefficient; 0.0 where either side is constant."""
    check_pairs(predictions, references)
    if len(set(predictions)) < 2 or len(set(references)) < 2:
        return 0.0
    return 100.0 * float(sklearn.matthews_corrcoef(references, predictions))


def pearson(predictions: Values, references: Values) -> float:
    """Pearson's correlation of values; 0.0 where either side is constant."""
    return _correlation(stats.pearsonr, predictions, references)


def spearman(predictions: Values, references: Values) -> float:
    """Spearman's rank correlation of values; 0.0 where either side is constant."""
    return _correlation(stats.spearmanr, predictions, references)


def _correlation(
    correlate: Callable[[NDArray[np.float64], NDArray[np.float64]], tuple[float, float]],
    predictions: Values,
    references: Values,
) -> float:
    check_pairs(predictions, references)
    predicted = np.asarray(predictions, dtype=np.float64)
    expected = np.asarray(references, dtype=np.float64)
    if not (np.isfinite(predicted).all() and np.isfinite(expected).all()):
        raise NumericsError("a predicted or expected value is NaN or infinite; a correlation needs finite values")
    if _is_constant(predicted) or _is_constant(expected):
        return 0.0
    return 100.0 * float(correlate(predicted, expected)[0])


def _is_constant(values: NDArray[np.float64]) -> bool:
    """Also of a single value."""
    return bool(np.ptp(values) <= NEARLY_CONSTANT * np.abs(values).max())


LABEL_METRICS: dict[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
"""name -> function of the predicted and the expected classes or values."""
