"""`loralab tune`: rates, ranks and targets tried side by side on one base, and the best adapter kept."""

from pathlib import Path
from typing import Any

from loralab.cli.flags import ESSENTIALS
from loralab.cli.showing import readable_bytes, show_files, show_heading, show_lines, show_table
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import TUNING
from loralab.experiments.tuning.config import TuneConfig
from loralab.training.command import folded

LONGEST_TARGETS = 24
"""Letters of a set of targets in the table; table.md has all."""


def run(config: TuneConfig) -> Answer:
    """Train what is not finished yet; the answer has every trial and the best."""
    from loralab.experiments.tuning.tune import tune

    if config.overwrite and TUNING.occupied(Path(config.out)):
        TUNING.refuse_other(Path(config.out))
    return tune(config).answer()


def show(answer: Answer) -> None:
    """The settings, the best first, what to try next, and the command that makes the best one again."""
    rungs = [str(rung) for rung in answer["rungs"]]
    columns = ("targets", "rank", "lr", *(f"at {rung}" for rung in rungs))
    show_table("held-out loss, mean over seeds, at step …", columns, [_line(row, rungs) for row in answer["rows"]])
    best = answer["best"]
    scores = ", ".join(f"{name} {value:.4g}" for name, value in best["metrics"].items())
    before = f" (base: loss {answer['base']['loss']:.4g})" if "loss" in answer["base"] else ""
    show_lines(
        f"Best: rank {best['rank']}, lr {best['lr']:g}, {best['targets'] or 'q,v of the family'}, seed "
        f"{best['seed']}: {scores}{before}.",
        f"Its adapter is in {best['adapter']}. {answer['seconds'] / 60:.1f} min, "
        f"{readable_bytes(answer['peak_memory_bytes'])} of memory at the most.",
        *answer["advice"],
    )
    show_heading("the best one again:")
    print(folded(answer["command"]))
    print()
    show_files([answer["table"], answer["results"], *answer["plots"]])


def _line(row: dict[str, Any], rungs: list[str]) -> list[str]:
    targets = row["targets"] or "q,v"
    cut = targets if len(targets) <= LONGEST_TARGETS else f"{targets[: LONGEST_TARGETS - 1]}…"
    losses = [f"{row['losses'][rung]:.4f}" if rung in row["losses"] else "" for rung in rungs]
    if row["stopped"] and row["stopped"].startswith("failed"):
        losses = [*[loss for loss in losses if loss], "failed", *[""] * len(rungs)][: len(rungs)]
    return [cut, str(row["rank"]), f"{row['lr']:g}", *losses]


VERB = Verb(
    TuneConfig,
    run,
    show,
    essentials=("ranks", "lrs", "target_sets", "budget_minutes", *ESSENTIALS),
    example=(
        "loralab tune --model smollm2-135m --task docstrings --ranks 4,16 \\\n"
        '  --target-sets "q,v;all-linear" --seeds 1,2 --budget-minutes 20 \\\n  --out out/tuned'
    ),
)
