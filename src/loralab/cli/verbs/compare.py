"""`loralab compare`: methods, seeds and sizes trained one after another, to one table and its pictures."""

from typing import Any

from loralab.cli.showing import readable_bytes
from loralab.cli.verb import Answer, Verb
from loralab.experiments.comparison.config import CompareConfig

WIDTH = 80


def run(config: CompareConfig) -> Answer:
    """Train what is not finished yet; the answer has the rows and the claims."""
    from loralab.experiments.comparison.compare import as_answer, compare

    return as_answer(compare(config))


def show(answer: Answer) -> None:
    """The table, the claims, and where everything is."""
    from rich.console import Console

    console = Console(width=WIDTH, highlight=False)
    console.print(_table(answer))
    for claim in answer["claims"]:
        verdict = {True: "held", False: "did not hold", None: "not tested"}[claim["held"]]
        console.print(f"{claim['claim']}: {verdict}", style="bold", markup=False)
        console.print(f"{claim['found']}\nPaper: {claim['paper']}\n", markup=False)
    for path in (answer["table"], answer["results"], *answer["plots"]):
        console.print(str(path), markup=False, soft_wrap=True)


def _table(answer: Answer) -> Any:
    """A line per row, with the metric that the claims are about; table.md has the others."""
    from rich.table import Table

    table = Table()
    table.add_column("method and setting", overflow="fold")
    for name in ("trained", answer["metric"] or "metric", "tok/s", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in answer["rows"]:
        table.add_row(*_line(row, answer["metric"]))
    return table


def _line(row: dict[str, Any], metric: str | None) -> list[str]:
    from loralab.experiments.comparison.figures import count_text, spread_text
    from loralab.experiments.comparison.rows import Spread

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
    example=(
        "loralab compare --model minilm-l6 --task glue/rte --data GLUE --epochs 4 \\\n"
        "  --methods lora,full,bitfit,adapter-h --method-lr full=5e-5,lora=1e-3 \\\n"
        "  --seeds 1,2,3 --ranks 1,4,8 --best-epoch --out out/rte"
    ),
)
