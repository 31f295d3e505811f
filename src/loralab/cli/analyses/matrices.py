"""`loralab analyse matrices`: what each kind of matrix and each block contributes to an adapter's gain."""

from dataclasses import dataclass
from pathlib import Path

from loralab.cli.measured import MeasuredAdapter, open_measured
from loralab.cli.verb import Answer, Verb

WIDTH = 80


@dataclass(frozen=True, kw_only=True)
class MatricesConfig(MeasuredAdapter):
    """Everything that `loralab analyse matrices` can be told."""

    layer_groups: int | None = None
    """Switch blocks off in at most N groups of consecutive ones; the default is every block by itself, which takes two
    measurements for each.
    """


def run(config: MatricesConfig) -> Answer:
    """Load, switch parts off one after another, write the files."""
    adapter, measurement = open_measured(config)
    from loralab.analysis.adapters.matrices_report import analyse_matrices

    return analyse_matrices(adapter, measurement, Path(config.out), config.layer_groups)


def show(answer: Answer) -> None:
    """A row for each part."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=WIDTH, highlight=False)
    title = f"{answer['metric']} on {answer['examples']} examples of {answer['task']}, {answer['split']}"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("part", overflow="fold")
    for name in ("updates", "without it", "lost", "it alone", "reached"):
        table.add_column(name, justify="right")
    table.add_row("whole adapter", "", f"{answer['without_adapter']:.4f}", "", f"{answer['with_adapter']:.4f}", "")
    by = None
    for row in answer["parts"]:
        if row["by"] != by:
            table.add_section()
        by = row["by"]
        name = row["part"] if by == "kind" or not row["part"][0].isdigit() else f"block {row['part']}"
        shares = ["-" if row[each] is None else f"{100 * row[each]:.0f}%" for each in ("lost_share", "alone_share")]
        measured = [f"{row[each]:.4f}" for each in ("without", "alone")]
        table.add_row(name, str(row["updates"]), measured[0], shares[0], measured[1], shares[1])
    console.print(table)
    console.print("lost, reached: shares of the adapter's gain; they need not sum to 100%", markup=False)
    for line in (*answer["notes"], *answer["files"]):
        console.print(line, markup=False, soft_wrap=True)


VERB = Verb(
    MatricesConfig,
    run,
    show,
    example="loralab analyse matrices --model smollm2-135m --adapter out/r8 \\\n"
    "  --task docstrings --layer-groups 6 --out out/matrices",
)
