"""`loralab analyse linearity`: how nearly each block is one affine map."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loralab.analysis.layers.config import Clouds
from loralab.cli.flags import ReadsText, WritesFolder
from loralab.cli.opening import open_stream
from loralab.cli.showing import show_files, show_lines, show_table
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import FilesAmong, writing

FILES = FilesAmong(("linearity.json", "linearity.png"))


@dataclass(frozen=True, kw_only=True)
class LinearityConfig(Clouds, ReadsText, WritesFolder):
    """The flags of `loralab analyse linearity`."""

    out: str
    """Folder for linearity.json and linearity.png."""

    mode: Literal["main", "delta"] = "delta"
    """What to rank by: the whole stream after a block (main), or what the block adds (delta). Both are written."""

    metric: Literal["lstsq", "orthogonal"] = "lstsq"
    """What to rank by: any linear map (the papers' score), or a scaled rotation only. Both are written."""

    reference: bool = False
    """Invert even the smallest singular values, as the authors' code does; unstable for streams of low rank."""


def run(config: LinearityConfig) -> Answer:
    """Score, and write the files."""
    from loralab.analysis.layers.linearity import analyse_linearity

    with writing(config.out, FILES, overwrite=config.overwrite, reads=(config.data,)):
        return analyse_linearity(
            open_stream(config), Path(config.out), config, config.mode, config.metric, reference=config.reference
        )


COLUMNS = {
    "with res.": "ls_main",
    "without": "ls_delta",
    "held out": "r2_heldout_delta",
    "rotation": "lo",
    "‖Δ‖/‖h‖": "share_added",
    "cosine": "cos",
}
"""Heading -> key of a block's scores, and of the share that the block adds."""


def show(answer: Answer) -> None:
    """A line for each block."""
    title = f"Linearity of the blocks of {answer['model']}"
    show_table(title, ("block", *COLUMNS), [_line(scores) for scores in answer["scores"]], words=0)
    ratio, noise = answer["tokens_per_width"], answer["noise"]
    show_lines(
        f"N/D = {ratio:.1f} ({answer['tokens']:,} tokens): noise alone would score {noise:.3f}",
        "without: of what the block adds; held out: the same R² on other text",
        f"most linear first ({answer['mode']}): {answer['most_linear_first'][:8]}",
    )
    show_files(answer["files"])


def _line(scores: Answer) -> list[str]:
    known = scores | {"share_added": scores["norm_delta"] / scores["norm_h"]}
    return [str(scores["ell"]), *("-" if known[key] is None else f"{known[key]:.3f}" for key in COLUMNS.values())]


VERB = Verb(
    LinearityConfig,
    run,
    show,
    example="loralab analyse linearity --model smollm2-135m --out out/linearity",
    needs=("plots",),
)
