"""table.md: the rows of a comparison and the paper's claims, in Markdown."""

from collections.abc import Sequence

from loralab.experiments.comparison.claims import Claim
from loralab.experiments.comparison.config import CompareConfig
from loralab.experiments.comparison.rows import Row, count_text, loose, spread_text


def markdown(config: CompareConfig, rows: Sequence[Row], claims: Sequence[Claim], how_tuned: str = "") -> str:
    """The whole file. `how_tuned` says how each method came to its rate."""
    failures = _failures(rows)
    parts = [
        f"# {config.model} on {config.task}",
        *([how_tuned] if how_tuned else []),
        _what_it_is(config),
        _table(rows, config.match_params is not None),
        *(f"{sentence[0].upper()}{sentence[1:]}." for sentence in loose(rows)),
        *(["## What failed", "\n".join(failures)] if failures else []),
        *_claims(claims),
    ]
    return "\n\n".join(parts) + "\n"


def _what_it_is(config: CompareConfig) -> str:
    seeds = ", ".join(map(str, config.seeds))
    budget = f" Sizes are those nearest to {config.match_params:,} trained parameters." if config.match_params else ""
    return (
        f"Mean ± sample standard deviation over seeds {seeds}, measured on held-out data. Trained parameters are the "
        "method's, the task's head apart; % is of the base. Tokens/s, steps and minutes (of training steps, one seed) "
        f"are medians, memory is the largest peak of a process; trainings ran one after the other.{budget}"
    )


def _table(rows: Sequence[Row], budget: bool) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    head = [
        "method", "setting", "examples", "lr", "trained", "%", *(["off budget"] if budget else []), *names, "tokens/s",
        "memory, MB", "steps", "minutes", "seeds",
    ]  # fmt: skip
    return markdown_table(head, [_columns(row, names, budget) for row in rows])


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of Markdown, the head first."""
    return "\n".join(map(_line, [head, ["---"] * len(head), *rows]))


def _columns(row: Row, names: Sequence[str], budget: bool) -> list[str]:
    miss = "-" if row.budget_miss is None else f"{row.budget_miss:+.1%}"
    minutes = None if row.seconds is None else row.seconds / 60
    failed = f", {len(row.failed)} failed" if row.failed else ""
    return [
        row.method,
        row.described() or "-",
        "all" if row.train_examples is None else f"{row.train_examples:,}",
        f"{row.lr:g}",
        count_text(row.trainable_params),
        "-" if row.share is None else f"{100 * row.share:.3g}",
        *([miss] if budget else []),
        *(spread_text(row.metrics[name]) if name in row.metrics else "-" for name in names),
        count_text(row.tokens_per_second),
        count_text(None if row.peak_memory_bytes is None else row.peak_memory_bytes / 1e6),
        count_text(row.steps),
        "-" if minutes is None else f"{minutes:.1f}",
        f"{len(row.seeds)}{failed}",
    ]


def _failures(rows: Sequence[Row]) -> list[str]:
    return [f"- {row.label}, seed {each.seed}: {_one_line(each.message)}" for row in rows for each in row.failed]


def _claims(claims: Sequence[Claim]) -> list[str]:
    """Those that were tested; what the others need is in results.json."""
    tested = [each for each in claims if each.held is not None]
    return ["## The paper's claims", "\n".join(map(_claim, tested))] if tested else []


def _claim(claim: Claim) -> str:
    measured = _one_line(claim.found)
    return f"- **{claim.claim}: {claim.verdict}.** {measured[0].upper()}{measured[1:]}. Paper: {claim.paper}."


def _line(columns: Sequence[str]) -> str:
    return "| " + " | ".join(_one_line(each).replace("|", "\\|") for each in columns) + " |"


def _one_line(text: str) -> str:
    return " ".join(text.split())
