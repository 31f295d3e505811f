"""What a measurement of latency found: a row for each contender, against the base of the same round and beside the
paper's, the noise, and the verdicts on merged LoRA.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median, quantiles
from typing import Any, TypeVar

from loralab.experiments.latency.config import InputSize
from loralab.experiments.latency.contenders import BASE, BASE_AGAIN, HOULSBY, LIN, LORA_DEPLOYED, LORA_MERGED, Contender
from loralab.experiments.latency.operators import OperatorCount

# -- the paper's Table 1 ------------------------------------------------------------------------------------------

WHERE = "GPT-2 medium, Quadro RTX8000"
MILLISECONDS = {
    InputSize(32, 512): {BASE: 1449.4, LIN: 1482.0, HOULSBY: 1492.2},
    InputSize(16, 256): {BASE: 338.0, LIN: 354.8, HOULSBY: 366.3},
    InputSize(1, 128): {BASE: 19.8, LIN: 23.9, HOULSBY: 25.8},
}
"""One forward pass, the mean of 100. The base is the fine-tuned model and merged LoRA, which share a row there; LoRA
kept apart was not timed."""
PARAMETERS = {InputSize(32, 512): 500_000, InputSize(16, 256): 11_000_000, InputSize(1, 128): 11_000_000}
"""What its adapters train in each setting (|Θ|)."""
COMPARABLE = 2.0
"""An adapter with up to so many times more or fewer parameters is beside the paper's."""


def paper_ratio(setting: InputSize, contender: str, parameters: int, others: Iterable[int]) -> float | None:
    """Time over the base's in Table 1, or None where it has no such row.

    Of the sizes of an adapter (`others`: what each trains) only the one nearest to the paper's has a row there.
    """
    times = MILLISECONDS.get(setting)
    if times is None:
        return None
    if contender in (BASE, BASE_AGAIN, LORA_MERGED, LORA_DEPLOYED):
        return 1.0
    if contender not in times or not _is_nearest(parameters, others, PARAMETERS[setting]):
        return None
    return times[contender] / times[BASE]


def _is_nearest(parameters: int, others: Iterable[int], wanted: int) -> bool:
    miss = _miss(parameters, wanted)
    return miss <= COMPARABLE and all(miss <= _miss(other, wanted) for other in others)


def _miss(parameters: int, wanted: int) -> float:
    """The larger over the smaller."""
    return max(parameters, wanted) / max(1, min(parameters, wanted))


# -- ratios and rows ----------------------------------------------------------------------------------------------

Name = TypeVar("Name")


@dataclass(frozen=True)
class Ratio:
    """Time over the base's, over rounds: the median and the quartiles."""

    median: float
    low: float
    high: float

    def overlaps(self, other: "Ratio") -> bool:
        """Whether the middle halves of the two have a value in common.

        Two contenders of equal speed fail this in 3% of settings with 7 rounds, in 12% with 5 (simulated, normal).
        """
        return self.low <= other.high and other.low <= self.high


def pairwise_ratio(rounds: Sequence[Mapping[Name, float]], name: Name, base: Name) -> Ratio:
    """The ratio within each round, then its median and quartiles over the rounds (of one round, itself)."""
    ratios = [each[name] / each[base] for each in rounds]
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    return Ratio(median(ratios), low, high)


ROUNDS_TO_JUDGE = 5
"""With fewer rounds quartiles say nothing of noise."""


@dataclass(frozen=True)
class Timing:
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
    """The ratio in the paper's Table 1, where it has such a row."""
    beyond_noise: bool | None = None
    """Whether it can be told from the base, timed a second time in the same rounds; None with too few to judge, and
    for the base itself."""

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
    setting: InputSize, rounds: Sequence[Mapping[Contender, float]], parameters: Mapping[Contender, int]
) -> list[Timing]:
    """A row for each contender, in the order of `parameters` (what each trains)."""
    rows = [_row(setting, contender, rounds, parameters) for contender in parameters]
    again = next((row.spread for row in rows if row.contender == BASE_AGAIN), None)
    return [replace(row, beyond_noise=_beyond(row, again, len(rounds))) for row in rows]


def _beyond(row: Timing, again: Ratio | None, rounds: int) -> bool | None:
    if again is None or rounds < ROUNDS_TO_JUDGE or row.contender in (BASE, BASE_AGAIN):
        return None
    return not row.spread.overlaps(again)


def noise_of(rows: Sequence[Timing], rounds: int) -> Noise:
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
    setting: InputSize,
    contender: Contender,
    rounds: Sequence[Mapping[Contender, float]],
    parameters: Mapping[Contender, int],
) -> Timing:
    ratio = pairwise_ratio(rounds, contender, Contender(BASE))
    others = [count for other, count in parameters.items() if other.name == contender.name]
    return Timing(
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


# -- the result ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """What it was measured on."""

    processor: str
    threads: int
    torch: str
    load: float
    """Runnable processes per minute when it began: above the threads, others were at work too."""

    @property
    def threads_text(self) -> str:
        return f"{self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Latency:
    """The table, and what it is worth."""

    model: str
    random_weights: bool
    dtype: str
    machine: Machine
    rounds: int
    repeats: int
    operators_at: str
    """The setting in which operators were counted."""
    operators: dict[str, OperatorCount]
    """By contender and size, each beside the base's."""
    rows: tuple[Timing, ...]
    noise: tuple[Noise, ...]
    """A row per setting."""
    files: tuple[str, ...] = field(default=())

    @property
    def merged_operations_equal(self) -> bool:
        """Whether merged LoRA, attached and deployed, executes the base's very operators on tensors of its layout."""
        merged = [each for name, each in self.operators.items() if name.split()[0] in (LORA_MERGED, LORA_DEPLOYED)]
        return all(each.equal for each in merged)

    @property
    def merged_within_noise(self) -> bool | None:
        """Whether in every setting merged LoRA cannot be told from the base timed against itself (None: not judged)."""
        return _all(each.merged_within for each in self.noise)

    @property
    def deployed_within_noise(self) -> bool | None:
        """Whether merged weights in plain modules cannot be told from the base (None: not judged)."""
        return _all(each.deployed_within for each in self.noise)


def as_answer(latency: Latency) -> dict[str, Any]:
    """All of it as JSON has it, with the verdicts; the machine's entries are beside the others."""
    content: dict[str, Any] = asdict(latency)
    machine = content.pop("machine")
    verdicts = {
        name: getattr(latency, name)
        for name in ("merged_operations_equal", "merged_within_noise", "deployed_within_noise")
    }
    return {**content, **machine, **verdicts}


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    known = list(verdicts)
    return None if None in known else all(known)
