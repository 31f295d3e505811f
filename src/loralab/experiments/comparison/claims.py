"""The paper's claims about what LoRA reaches, judged by the rows of a comparison. Pure functions: no files, no runs.

Means over the seeds are compared. What a comparison cannot tell is not judged.
"""

from collections.abc import Sequence

from loralab.experiments.comparison.claim import NOT_TESTED, Claim
from loralab.experiments.comparison.comparable import Comparable, comparable
from loralab.experiments.comparison.cost_claims import cost_claims
from loralab.experiments.comparison.rows import Row

ONE_PERCENT = 0.01
EQUAL_BUDGET = 0.25
"""Trainable parameters that differ by at most this share count as the same budget: where keys and values are narrower
than queries, no whole rank makes q alone exactly as large as q and v."""

_ALIASES = {
    "q": ("q", "q_proj", "query", "query_proj", "q_lin"),
    "k": ("k", "k_proj", "key", "key_proj", "k_lin"),
    "v": ("v", "v_proj", "value", "value_proj", "v_lin"),
}

Verdict = tuple[bool | None, str]
"""Whether a claim held, and what was found."""


def judge_claims(rows: Sequence[Row], asked: str | None = None) -> list[Claim]:
    """Every claim; `asked` is the metric to judge by, if it is not the usual one."""
    these = comparable(rows, asked)
    return [lora_matches_full(these), q_and_v(these), rank_one(these), *cost_claims(these)]


def lora_matches_full(these: Comparable) -> Claim:
    """The best mean of the small LoRA settings is at least that of full fine-tuning."""
    held, found = _small_lora_against_full(these)
    return Claim(
        name="lora-matches-full",
        claim="LoRA is at least as good as full fine-tuning with at most 1% of its parameters",
        held=held,
        found=found,
        paper="GPT-3 175B: WikiSQL 74.0 against 73.8, MNLI-m 91.7 against 89.5, with 0.02% and 0.003% (Table 4)",
    )


def q_and_v(these: Comparable) -> Claim:
    """The mean with q and v is better than that of every single one of q and k at the same budget."""
    held, found = _q_and_v_against_one(these)
    return Claim(
        name="q-and-v",
        claim="Adapting q and v is better than adapting q or k alone at the same budget",
        held=held,
        found=found,
        paper="GPT-3 175B, 18M parameters: WikiSQL 73.7 with q,v, 70.4 with q, 70.0 with k (Table 5)",
    )


def rank_one(these: Comparable) -> Claim:
    """The mean of r=1 is within one standard deviation of that of the best rank."""
    held, found = _rank_one_against_best(these)
    return Claim(
        name="rank-one",
        claim="A rank as small as 1 is enough",
        held=held,
        found=found,
        paper="GPT-3 175B, q,v: WikiSQL 73.4 with r=1, 73.8 with r=8, the best; ± 0.5 (Table 6)",
    )


def _small_lora_against_full(these: Comparable) -> Verdict:
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
