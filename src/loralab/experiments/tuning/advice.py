"""What to try next where the best setting lies at an end of what was tried."""

from collections.abc import Sequence

from loralab.experiments.tuning.grid import TunedSetting

RANK_STEP = 4


def advice(best: TunedSetting, tried: Sequence[TunedSetting]) -> tuple[str, ...]:
    """Sentences, none where it lies between others."""
    rates = sorted({each.lr for each in tried})
    ranks = sorted({each.rank for each in tried})
    said = []
    if len(rates) > 1 and best.lr == rates[-1]:
        said.append(
            f"The best rate, {best.lr:g}, is the highest that was tried: try --lrs {_rates(best.lr, 1, 3, 10)}."
        )
    elif len(rates) > 1 and best.lr == rates[0]:
        said.append(
            f"The best rate, {best.lr:g}, is the lowest that was tried: try --lrs {_rates(best.lr, 0.1, 0.3, 1)}."
        )
    if len(ranks) > 1 and best.rank == ranks[-1]:
        said.append(
            f"The best rank, {best.rank}, is the highest that was tried: try --ranks "
            f"{best.rank},{RANK_STEP * best.rank}."
        )
    elif len(ranks) > 1 and best.rank == ranks[0] > 1:
        lower = max(1, best.rank // RANK_STEP)
        said.append(
            f"The best rank, {best.rank}, is the lowest that was tried: --ranks {lower},{best.rank} may do too."
        )
    return tuple(said)


def _rates(rate: float, *factors: float) -> str:
    return ",".join(f"{rate * factor:.2g}" for factor in factors)
