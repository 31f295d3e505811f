"""The paper's claims about what LoRA reaches and what it costs, judged by the rows of a comparison.

Means over the seeds are compared. What a comparison cannot tell is not judged. Pure functions: no files, no runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loralab.experiments.comparison.rows import Row, Spread, main_metric
from loralab.metrics.scores import higher_is_better

NOT_TESTED = "not tested in this comparison: "
NO_PAIR = f"{NOT_TESTED}it needs results of full and lora"


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, judged."""

    name: str
    claim: str
    held: bool | None
    """None: not tested in this comparison; `found` says why."""
    found: str
    """What was measured, with its figures."""
    paper: str
    """The paper's own figures."""

    @property
    def verdict(self) -> str:
        """For people."""
        return {True: "held", False: "did not hold", None: "not tested"}[self.held]


@dataclass(frozen=True)
class Comparable:
    """Rows with results in one metric, all trained on the same number of examples."""

    rows: tuple[Row, ...]
    metric: str | None
    """None where nothing was measured."""

    @property
    def lora(self) -> list[Row]:
        """LoRA alone, without a combination."""
        return [row for row in self.rows if row.method == "lora"]

    @property
    def full(self) -> Row | None:
        """Full fine-tuning."""
        return next((row for row in self.rows if row.method == "full"), None)

    def of(self, row: Row) -> Spread:
        """The metric of this row; there must be one."""
        return row.metrics[str(self.metric)]

    def gain(self, row: Row, other: Row) -> float:
        """By how much the mean of `row` is better than that of `other`, in the metric's units."""
        difference = self.of(row).mean - self.of(other).mean
        return difference if higher_is_better(str(self.metric)) else -difference

    def best(self, rows: Sequence[Row]) -> Row:
        """The row with the best mean."""
        sign = 1 if higher_is_better(str(self.metric)) else -1
        return max(rows, key=lambda row: sign * self.of(row).mean)

    def said(self, row: Row) -> str:
        """The row and its figure: `lora r=4, q,v 77.9 ± 0.4 (3 seeds)`."""
        value = self.of(row)
        spread = f" ± {value.sd:.3g} ({value.n} seeds)" if value.n > 1 else " (1 seed)"
        return f"{row.label} {value.mean:.4g}{spread}"

    def beside(self, row: Row, other: Row) -> str:
        """Both with their figures, and by how much `row` is better."""
        gain = self.gain(row, other)
        how = f"better by {gain:.3g}" if gain > 0 else f"worse by {-gain:.3g}" if gain < 0 else "the same"
        return f"{self.metric} of {self.said(row)}, of {self.said(other)}: {how}"

    def within_noise(self, row: Row, other: Row) -> str:
        """A remark where the means differ by no more than the larger of the two standard deviations, else nothing."""
        noise = max(self.of(row).sd, self.of(other).sd)
        return ", within one sd" if 0 < abs(self.gain(row, other)) <= noise else ""


def comparable(rows: Sequence[Row], asked: str | None = None) -> Comparable:
    """The rows with results that were trained on the most examples, judged by `asked` or else the usual metric."""
    metric = main_metric(rows, asked)
    usable = [row for row in rows if row.seeds and (metric is None or metric in row.metrics)]
    most = max((_examples(row) for row in usable), default=0.0)
    return Comparable(tuple(row for row in usable if _examples(row) == most), metric)


def _examples(row: Row) -> float:
    return float("inf") if row.train_examples is None else row.train_examples


ONE_PERCENT = 0.01
EQUAL_BUDGET = 0.25
"""Trainable parameters that differ by at most this share count as the same budget: where keys and values are narrower
than queries, no whole rank makes q alone exactly as large as q and v."""

MEMORY_RATIO = 3.0
"""Full fine-tuning's memory ÷ LoRA's (paper §4.2: 3×, 1.2 TB → 350 GB)."""
SPEED_RATIO = 43.1 / 32.5
"""LoRA's tokens a second ÷ full fine-tuning's (paper §4.2, per V100); in time a token 24.6% less, the paper's 25%."""

_ALIASES = {
    "q": ("q", "q_proj", "query", "query_proj", "q_lin"),
    "k": ("k", "k_proj", "key", "key_proj", "k_lin"),
    "v": ("v", "v_proj", "value", "value_proj", "v_lin"),
}

Verdict = tuple[bool | None, str]
"""Whether a claim held (None: not tested), and what was found."""


def judge_claims(rows: Sequence[Row], asked: str | None = None) -> list[Claim]:
    """Every claim; `asked` is the metric to judge by, if it is not the usual one."""
    these = comparable(rows, asked)
    judged = ((each, *each.judge(these)) for each in CLAIMS)
    return [Claim(each.name, each.claim, held, found, each.paper) for each, held, found in judged]


# -- what it reaches -------------------------------------------------------------------------------------------


def _small_lora_against_full(these: Comparable) -> Verdict:
    """The best mean of the small LoRA settings is at least that of full fine-tuning."""
    full = these.full
    if full is None or not these.lora or these.metric is None:
        return None, f"{NOT_TESTED}it needs results of full and lora in one metric"
    shares = [_parameters(row) / _parameters(full) for row in these.lora]
    small = [row for row, share in zip(these.lora, shares, strict=True) if share <= ONE_PERCENT]
    if not small:
        return None, f"{NOT_TESTED}its smallest LoRA trains {min(shares):.2%} of full's parameters"
    best = these.best(small)
    chosen = f" (the best of {len(small)} such settings)" if len(small) > 1 else ""
    trained = f"with {_parameters(best) / _parameters(full):.3%} of its parameters"
    found = f"{these.beside(best, full)}{these.within_noise(best, full)}; LoRA {trained}{chosen}"
    return these.gain(best, full) >= 0, found


def _q_and_v_against_one(these: Comparable) -> Verdict:
    """The mean with q and v is better than that of every single one of q and k at the same budget."""
    both = [row for row in these.lora if _letters(row) == {"q", "v"}]
    single = [row for row in these.lora if _letters(row) in ({"q"}, {"k"})]
    pairs = [(row, [other for other in single if _same_budget(row, other)]) for row in both]
    row, others = max(pairs, key=lambda pair: len(pair[1]), default=(None, []))
    if row is None or not others or these.metric is None:
        return None, f"{NOT_TESTED}it needs lora on q,v and on q or k alone, with as many parameters"
    budgets = ", ".join(f"{_parameters(each):,}" for each in (row, *others))
    found = "; ".join(these.beside(row, other) + these.within_noise(row, other) for other in others)
    return all(these.gain(row, other) > 0 for other in others), f"{found}; parameters {budgets}"


def _rank_one_against_best(these: Comparable) -> Verdict:
    """The mean of r=1 is within one standard deviation of that of the best rank."""
    groups: dict[str | None, list[Row]] = {}
    for row in these.lora:
        groups.setdefault(row.targets, []).append(row)
    with_one = [group for group in groups.values() if len(group) > 1 and any(row.rank == 1 for row in group)]
    if not with_one or these.metric is None:
        return None, f"{NOT_TESTED}it needs lora with r=1 and a larger rank on the same targets"
    group = max(with_one, key=len)
    one, best = next(row for row in group if row.rank == 1), these.best(group)
    if one is best:
        return True, f"{these.metric} of {these.said(one)}, the best of {len(group)} ranks"
    found = f"{these.beside(one, best)}, where the best of {len(group)} ranks has an sd of {these.of(best).sd:.3g}"
    if these.of(best).n < 2:
        return None, f"{NOT_TESTED}one seed shows no spread to judge a difference by; {found}"
    return these.gain(best, one) <= these.of(best).sd, found


def _parameters(row: Row) -> int:
    """Trained by the method; a row with results has them."""
    return row.trainable_params or 0


def _letters(row: Row) -> set[str]:
    """The adapted matrices by the paper's letters; other names as they are. Without targets they are q and v."""
    names = [name.strip() for name in (row.targets or "q,v").split(",")]
    return {next((letter for letter, known in _ALIASES.items() if name in known), name) for name in names}


def _same_budget(row: Row, other: Row) -> bool:
    one, two = _parameters(row), _parameters(other)
    return abs(one - two) <= EQUAL_BUDGET * max(one, two)


# -- what it costs ---------------------------------------------------------------------------------------------


def _pair(these: Comparable) -> tuple[Row, Row] | None:
    """LoRA with the fewest parameters, and full fine-tuning."""
    if these.full is None or not these.lora:
        return None
    return min(these.lora, key=lambda row: row.trainable_params or 0), these.full


def _memory(row: Row) -> float:
    return float(row.peak_memory_bytes or 0)


def _speed(row: Row) -> float:
    return row.tokens_per_second or 0.0


def _less_memory(these: Comparable) -> Verdict:
    pair = _pair(these)
    if pair is None:
        return None, NO_PAIR
    lora, full = pair
    ratio = _memory(lora) / _memory(full)
    return _memory(full) >= MEMORY_RATIO * _memory(lora), (
        f"{lora.label} peaks at {_memory(lora) / 1e6:,.0f} MB, full at {_memory(full) / 1e6:,.0f} MB: LoRA/full "
        f"{ratio:.2f}, {1 / ratio:.2f}× less (on a CPU the whole process, its libraries included)"
    )


def _more_speed(these: Comparable) -> Verdict:
    pair = _pair(these)
    if pair is None:
        return None, NO_PAIR
    lora, full = pair
    ratio = _speed(lora) / _speed(full)
    less = f"{1 - 1 / ratio:.1%} less time" if ratio >= 1 else f"{1 / ratio - 1:.1%} more time"
    return _speed(lora) >= SPEED_RATIO * _speed(full), (
        f"{lora.label} trains {_speed(lora):,.0f} tokens/s, full {_speed(full):,.0f}: LoRA/full {ratio:.2f}, "
        f"{less} a token"
    )


@dataclass(frozen=True)
class PaperClaim:
    """What the paper claims, and how it is judged."""

    name: str
    claim: str
    judge: Callable[[Comparable], Verdict]
    paper: str
    """The paper's own figures."""


CLAIMS = (
    PaperClaim(
        "lora-matches-full",
        "LoRA is at least as good as full fine-tuning with at most 1% of its parameters",
        _small_lora_against_full,
        "GPT-3 175B: WikiSQL 74.0 against 73.8, MNLI-m 91.7 against 89.5, with 0.02% and 0.003% (Table 4)",
    ),
    PaperClaim(
        "q-and-v",
        "Adapting q and v is better than adapting q or k alone at the same budget",
        _q_and_v_against_one,
        "GPT-3 175B, 18M parameters: WikiSQL 73.7 with q,v, 70.4 with q, 70.0 with k (Table 5)",
    ),
    PaperClaim(
        "rank-one",
        "A rank as small as 1 is enough",
        _rank_one_against_best,
        "GPT-3 175B, q,v: WikiSQL 73.4 with r=1, 73.8 with r=8, the best; ± 0.5 (Table 6)",
    ),
    PaperClaim(
        "memory",
        "LoRA needs a third of the memory of full fine-tuning",
        _less_memory,
        "GPT-3 175B: 1.2 TB → 350 GB, LoRA/full 0.29 (§4.2)",
    ),
    PaperClaim(
        "speed",
        "LoRA trains 25% faster than full fine-tuning",
        _more_speed,
        "GPT-3 175B: 32.5 → 43.1 tokens/s per V100, LoRA/full 1.33, 24.6% less time (§4.2)",
    ),
)
