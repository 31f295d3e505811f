"""`loralab analyse matrices`: what each kind of matrix and each block contributes to an adapter's gain."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loralab.cli.flags import MeasuredAdapter, WritesFolder
from loralab.cli.opening import open_measured
from loralab.cli.showing import show_files, show_lines, show_table
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import FilesAmong, writing

FILES = FilesAmong(("matrices.json", "matrices.png"))


@dataclass(frozen=True, kw_only=True)
class MatricesConfig(MeasuredAdapter, WritesFolder):
    """The flags of `loralab analyse matrices`."""

    layer_groups: int | None = None
    """Switch blocks off in at most N groups of consecutive ones; the default is every block by itself, which takes two
    measurements for each.
    """


def run(config: MatricesConfig) -> Answer:
    """Load, switch parts off one after another, write the files."""
    with writing(config.out, FILES, overwrite=config.overwrite, reads=(config.data,)):
        adapter, measurement = open_measured(config)
        from loralab.analysis.adapters.matrices import analyse_matrices

        return analyse_matrices(adapter, measurement, Path(config.out), config.layer_groups)


def show(answer: Answer) -> None:
    """A row for each part."""
    title = f"{answer['metric']} on {answer['examples']} examples of {answer['task']}, {answer['split']}"
    show_table(title, ("part", "updates", "without it", "lost", "it alone", "reached"), _lines(answer))
    show_lines("lost, reached: shares of the adapter's gain; they need not sum to 100%", *answer["notes"])
    show_files(answer["files"])


def _lines(answer: Answer) -> Iterator[list[str] | None]:
    """The whole adapter, then its parts: kinds of matrices, blocks."""
    yield ["whole adapter", "", f"{answer['without_adapter']:.4f}", "", f"{answer['with_adapter']:.4f}", ""]
    by = None
    for row in answer["parts"]:
        if row["by"] != by:
            yield None
        by = row["by"]
        name = row["part"] if by == "kind" or not row["part"][0].isdigit() else f"block {row['part']}"
        lost, reached = ("-" if row[key] is None else f"{100 * row[key]:.0f}%" for key in ("lost_share", "alone_share"))
        yield [name, str(row["updates"]), f"{row['without']:.4f}", lost, f"{row['alone']:.4f}", reached]


VERB = Verb(
    MatricesConfig,
    run,
    show,
    example="loralab analyse matrices --model smollm2-135m --adapter out/r8 \\\n"
    "  --task docstrings --layer-groups 6 --out out/matrices",
    needs=("plots",),
)
