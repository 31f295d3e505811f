"""`loralab compare`: methods, seeds and sizes trained one after another, to one table and its pictures."""

from pathlib import Path
from typing import Any

from loralab.cli.flags import ESSENTIALS
from loralab.cli.showing import readable_bytes, show_files, show_heading, show_lines, show_table
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import COMPARISON
from loralab.experiments.comparison.config import CompareConfig


def run(config: CompareConfig) -> Answer:
    """Train what is not finished yet; the answer has the rows and the claims."""
    from loralab.experiments.comparison.compare import as_answer, compare

    if config.cell is not None:
        return _train_cell(config)
    if config.overwrite and COMPARISON.occupied(Path(config.out)):
        COMPARISON.refuse_other(Path(config.out))
    return as_answer(compare(config))


def _train_cell(config: CompareConfig) -> Answer:
    """The answer is what came of one cell."""
    from loralab.experiments.comparison.single import train_cell

    outcome, cells = train_cell(config)
    return {"cell": outcome.cell.name, "cells": cells, "result": outcome.result}


def show(answer: Answer) -> None:
    """The table with the metric that the claims are about, those that were tested, and the files; table.md has all."""
    if "cell" in answer:
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in answer["result"]["metrics"].items())
        show_lines(f"{answer['cell']}, one of {answer['cells']} cells: {metrics}")
        return
    show_lines(answer["how_tuned"], "")
    columns = ("method and setting", "trained", answer["metric"] or "metric", "tok/s", "memory")
    show_table("", columns, [_line(row, answer["metric"]) for row in answer["rows"]])
    show_lines(*answer["notes"])
    for claim in answer["claims"]:
        if claim["held"] is None:
            continue
        show_heading(f"{claim['claim']}: {'held' if claim['held'] else 'did not hold'}")
        show_lines(claim["found"], f"Paper: {claim['paper']}", "")
    show_files([answer["table"], answer["results"], *answer["plots"]])


def _line(row: dict[str, Any], metric: str | None) -> list[str]:
    from loralab.experiments.comparison.rows import Spread, count_text, spread_text

    value, memory = row["metrics"].get(metric), row["peak_memory_bytes"]
    return [
        row["label"],
        count_text(row["trainable_params"]),
        ("failed" if row["failed"] else "-") if value is None else spread_text(Spread(**value)),
        count_text(row["tokens_per_second"]),
        "-" if memory is None else readable_bytes(memory),
    ]


VERB = Verb(
    CompareConfig,
    run,
    show,
    essentials=ESSENTIALS,
    example=(
        "loralab compare --model minilm-l6 --task glue/rte --data GLUE --epochs 4 \\\n"
        "  --methods lora,full,bitfit,adapter-h --method-lr full=5e-5,lora=1e-3 \\\n"
        "  --seeds 1,2,3 --ranks 1,4,8 --best-epoch --out out/rte"
    ),
    needs=("plots",),
)
