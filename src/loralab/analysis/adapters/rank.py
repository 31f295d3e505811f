"""Which rank was enough: the metric of a trained adapter cut to lower and lower ranks.

The knee is the smallest measured rank that keeps a stated share of the gain,

    m(r') − m(0) ≥ share · (m(R) − m(0))

with m signed such that more is better, R the rank as trained, and rank 0 the adapter without its low-rank updates: the
base, or the base with what the adapter trains in full (a head, biases).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from loralab.analysis.adapters.measurement import Measurement
from loralab.analysis.adapters.parts import switched_off
from loralab.analysis.adapters.truncation import Truncation
from loralab.core.adapter import Adapter
from loralab.errors import SpecError


@dataclass(frozen=True)
class Point:
    """The adapter at one rank."""

    rank: int
    metric: float
    energy: float
    """The share of Σ‖ΔW‖²_F over all updates that is kept."""
    gain_share: float | None
    """Of the whole adapter's gain; None where there is no gain."""


@dataclass(frozen=True)
class Curve:
    """The adapter at every rank that was measured, 0 first and the rank as trained last."""

    points: tuple[Point, ...]
    gain: float
    """Of the whole adapter over rank 0, positive where it is better."""
    share: float
    """Of the gain, that the knee has to keep."""

    @property
    def knee(self) -> Point | None:
        """The first that keeps enough; None for an adapter without a gain."""
        enough = (p for p in self.points if p.rank > 0 and p.gain_share is not None and p.gain_share >= self.share)
        return next(enough, None)


def default_ranks(highest: int) -> list[int]:
    """1, 2, 4, … below the highest, and the highest itself."""
    doubling = [2**power for power in range(highest.bit_length()) if 2**power < highest]
    return [*doubling, highest]


def rank_curve(adapter: Adapter, measure: Measurement, ranks: Sequence[int] | None, share: float) -> Curve:
    """Measure the adapter at rank 0, at these ranks and as it is; it is afterwards as it was, bit for bit.

    Raises SpecError for a share outside (0, 1] and for ranks that the adapter does not have.
    """
    if not 0 < share <= 1:
        raise SpecError(f"share {share:g} was asked for; it is the part of the gain to keep, above 0 and at most 1")
    cut = Truncation(adapter)
    chosen = sorted({*(default_ranks(cut.rank) if ranks is None else ranks), cut.rank})
    if not 1 <= chosen[0] <= chosen[-1] <= cut.rank:
        raise SpecError(f"ranks {ranks} were asked for; adapter '{adapter.name}' can be cut to ranks 1 to {cut.rank}")
    whole = measure()
    measure.announce(len(chosen))
    measured = {}
    with switched_off(measure.model, adapter, list(cut.cells)):
        measured[0] = measure()
    for rank in chosen[:-1]:
        with cut.to(rank):
            measured[rank] = measure()
    measured[cut.rank] = whole
    gain = measure.gain(measured[0], whole)
    points = (
        Point(
            rank,
            metric,
            cut.energy_kept(rank),
            measure.gain(measured[0], metric) / gain if gain > 0 else None,
        )
        for rank, metric in measured.items()
    )
    return Curve(tuple(points), gain, share)
