"""The principal components of rows that arrive in pieces, in memory that does not grow with them: pure mathematics.

Incremental SVD with a running mean (Ross et al. 2008): the directions kept so far, each as long as its singular value,
the new rows about their own mean, and one row for the step between the two means have together the scatter of all rows
seen. Their SVD is the new state, cut to the K directions that are kept. With K = I nothing is ever cut, and the result
is exact.

Shapes: N rows, I features, K directions kept.
"""

import torch
from torch import Tensor

from loralab.errors import NumericsError

CHUNK = 256
"""Rows that are taken in at once: the SVD of K + CHUNK rows costs no more per row than one of fewer."""


class PrincipalComponents:
    """Σ (x − μ)(x − μ)ᵀ over all rows so far, by its K largest directions, in float64.

    Holds (K + 1)·I numbers, where the second moments would be I²: for 11008 inputs and K = 48, 4 MB instead of 970.
    """

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self.count = 0
        self.scatter = 0.0
        """Σ |x − μ|², of all directions: what the explained shares are shares of."""
        self._mean_I: Tensor | None = None
        self._scaled_KI: Tensor | None = None

    def add(self, rows_NI: Tensor) -> None:
        """Take in rows, of any floating dtype; raises NumericsError for one that is not finite."""
        if not bool(torch.isfinite(rows_NI).all()):
            raise NumericsError("the inputs hold NaN or infinite values; try --dtype float32")
        for chunk in torch.split(rows_NI, CHUNK):
            self._add(chunk.double())

    def _add(self, rows_NI: Tensor) -> None:
        new, old = len(rows_NI), self.count
        if new == 0:
            return
        mean_I = rows_NI.mean(0)
        centred_NI = rows_NI - mean_I
        stacked = [centred_NI]
        if self._mean_I is not None and self._scaled_KI is not None:
            between_I = (old * new / (old + new)) ** 0.5 * (self._mean_I - mean_I)
            stacked = [self._scaled_KI, centred_NI, between_I[None]]
            mean_I = self._mean_I + (mean_I - self._mean_I) * (new / (old + new))
            self.scatter += float(between_I.square().sum())
        self.scatter += float(centred_NI.square().sum())
        values_K, vectors_KI = right_singular(torch.cat(stacked), self.kept)
        self._mean_I, self._scaled_KI, self.count = mean_I, values_K[:, None] * vectors_KI, old + new

    def leading(self) -> tuple[Tensor, Tensor]:
        """(singular values [≤ K], orthonormal directions [≤ K, I]), largest first, of those along which rows differ.

        A direction counts if its singular value is not lost beside the largest one in float32, in which layers
        compute. The sign of a direction is that in which its largest entry is positive.
        """
        if self._scaled_KI is None:
            raise NumericsError("no rows were given, so there are no principal components")
        values_K, vectors_KI = right_singular(self._scaled_KI, self.kept)
        least = values_K[0] * self._scaled_KI.shape[1] * torch.finfo(torch.float32).eps
        real = int((values_K > least).sum())
        return values_K[:real], _positive(vectors_KI[:real])

    def explained(self, values: Tensor) -> Tensor:
        """The share of the rows' total variance that lies along directions with these singular values."""
        return values.square() / self.scatter if self.scatter else values.square()


def right_singular(rows_NI: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest singular values [≤ count] and their right-singular vectors [≤ count, I].

    By way of a QR factorisation of the narrower side, which squares no condition number as XXᵀ would.
    """
    if rows_NI.shape[0] < rows_NI.shape[1]:
        Q_IN, R_NN = torch.linalg.qr(rows_NI.T)
        U_NN, values, _ = torch.linalg.svd(R_NN)
        return values[:count], (Q_IN @ U_NN[:, :count]).T
    _, values, Vh_II = torch.linalg.svd(torch.linalg.qr(rows_NI).R)
    return values[:count], Vh_II[:count]


def _positive(vectors_KI: Tensor) -> Tensor:
    largest_K1 = vectors_KI.abs().argmax(1, keepdim=True)
    return vectors_KI * vectors_KI.gather(1, largest_K1).sign()


def have_settled(before_KI: Tensor, now_KI: Tensor, count: int, tau: float) -> bool:
    """Whether each of the first `count` directions has a cosine of at least tau with what it was (its sign is free)."""
    if min(len(before_KI), len(now_KI)) < min(count, len(now_KI)):
        return False
    cosines = (before_KI[:count] * now_KI[:count]).sum(1).abs()
    return bool((cosines >= tau).all())
