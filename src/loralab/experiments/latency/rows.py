"""The rows of a latency table, from the timings of its rounds; and how large the noise in them is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from loralab.experiments.latency.config import Setting
from loralab.experiments.latency.contenders import BASE, BASE_AGAIN, LORA_DEPLOYED, LORA_MERGED, Contender
from loralab.experiments.latency.paper import paper_ratio
from loralab.experiments.latency.ratios import Ratio, pairwise_ratio

ROUNDS_TO_JUDGE = 5
"""With fewer rounds quartiles say nothing of noise."""


@dataclass(frozen=True)
class Row:
    """One contender in one setting."""

    batch: int
    sequence: int
    contender: str
    size: int
    """The rank, or the width of the bottleneck; 0 for the base."""
    parameters: int
    """What the method trains."""
    milliseconds: float
    """One forward pass, the median over rounds."""
    ratio: float
    """Time over the base's of the same round: the median, and below the quartiles."""
    ratio_low: float
    ratio_high: float
    paper_ratio: float | None
    """The same in the paper's Table 1, where it has such a row."""

    @property
    def spread(self) -> Ratio:
        return Ratio(self.ratio, self.ratio_low, self.ratio_high)


@dataclass(frozen=True)
class Noise:
    """The ratio of the base to itself in one setting, and whether merged LoRA can be told from it."""

    batch: int
    sequence: int
    ratio: float
    low: float
    high: float
    merged_within: bool | None
    """None with too few rounds to judge."""
    deployed_within: bool | None


def rows_of(
    setting: Setting, rounds: Sequence[Mapping[Contender, float]], parameters: Mapping[Contender, int]
) -> list[Row]:
    """A row for each contender, in the order of `parameters` (what each trains)."""
    return [_row(setting, contender, rounds, parameters) for contender in parameters]


def noise_of(rows: Sequence[Row], rounds: int) -> Noise:
    """From the rows of one setting, which are medians over so many rounds."""
    by_name = {row.contender: row for row in rows}
    again, enough = by_name[BASE_AGAIN].spread, rounds >= ROUNDS_TO_JUDGE
    return Noise(
        batch=rows[0].batch,
        sequence=rows[0].sequence,
        ratio=again.median,
        low=again.low,
        high=again.high,
        merged_within=by_name[LORA_MERGED].spread.overlaps(again) if enough else None,
        deployed_within=by_name[LORA_DEPLOYED].spread.overlaps(again) if enough else None,
    )


def _row(
    setting: Setting,
    contender: Contender,
    rounds: Sequence[Mapping[Contender, float]],
    parameters: Mapping[Contender, int],
) -> Row:
    ratio = pairwise_ratio(rounds, contender, Contender(BASE))
    others = [count for other, count in parameters.items() if other.name == contender.name]
    return Row(
        batch=setting.batch,
        sequence=setting.sequence,
        contender=contender.name,
        size=contender.size,
        parameters=parameters[contender],
        milliseconds=median(each[contender] for each in rounds),
        ratio=ratio.median,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        paper_ratio=paper_ratio(setting, contender.name, parameters[contender], others),
    )
