"""`loralab analyse linearity`: how nearly each block is one affine map."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from loralab.cli.analyses.residual_stream import StreamConfig, console, open_stream, print_files
from loralab.cli.verb import Answer, Verb

if TYPE_CHECKING:
    from loralab.analysis.layers.linearity import Clouds


@dataclass(frozen=True, kw_only=True)
class CloudConfig:
    """The text's tokens that the maps are fitted on."""

    chunks: int = 128
    """Pieces of the text to run, fitted and held-out ones together."""

    chars: int = 512
    """Characters of a piece; all its tokens count."""

    heldout: float = 0.2
    """Share of the pieces that is kept for a held-out R², from another part of the text."""

    skip_first_token: bool = False
    """Leave the first token of each piece out: its state is often so large that it alone decides the score."""

    def clouds(self, data: str | None, seed: int) -> "Clouds":
        """What the analysis takes: these, of this text."""
        from loralab.analysis.layers.linearity import Clouds

        return Clouds(
            data=data,
            chunks=self.chunks,
            chars=self.chars,
            heldout=self.heldout,
            skip_first_token=self.skip_first_token,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class LinearityConfig(CloudConfig, StreamConfig):
    """Everything that `loralab analyse linearity` can be told."""

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

    clouds = config.clouds(config.data, config.seed)
    return analyse_linearity(
        open_stream(config), Path(config.out), clouds, config.mode, config.metric, reference=config.reference
    )


def show(answer: Answer) -> None:
    """A line for each block."""
    from rich.table import Table

    page = console()
    page.print(f"Linearity of the blocks of {answer['model']}", style="bold", markup=False)
    table = Table()
    columns = {
        "block": "ell", "with res.": "ls_main", "without": "ls_delta", "held out": "r2_heldout_delta",
        "rotation": "lo", "‖Δ‖/‖h‖": "", "cosine": "cos",
    }  # fmt: skip
    for name in columns:
        table.add_column(name, justify="right")
    for score in answer["scores"]:
        values = [score[key] if key else score["norm_delta"] / score["norm_h"] for key in columns.values()]
        table.add_row(str(values[0]), *("-" if value is None else f"{value:.3f}" for value in values[1:]))
    page.print(table)
    ratio, noise = answer["tokens_per_width"], answer["noise"]
    page.print(f"N/D = {ratio:.1f} ({answer['tokens']:,} tokens): noise alone would score {noise:.3f}")
    page.print("without: of what the block adds; held out: the same R² on other text", markup=False)
    page.print(f"most linear first ({answer['mode']}): {answer['most_linear_first'][:8]}", markup=False)
    print_files(answer["files"])


VERB = Verb(LinearityConfig, run, show, example="loralab analyse linearity --model smollm2-135m --out out/linearity")
