"""`loralab analyse angular`: how far each run of blocks turns the residual stream."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loralab.cli.flags import ReadsText
from loralab.cli.opening import open_stream, say
from loralab.cli.showing import show_files, show_lines, show_table
from loralab.cli.verb import Answer, Verb


@dataclass(frozen=True, kw_only=True)
class AngularConfig(ReadsText):
    """Everything that `loralab analyse angular` can be told."""

    out: str
    """Folder for angular.json and angular.png."""

    samples: int = 256
    """Pieces of text to run."""

    max_len: int = 512
    """Tokens that a piece may have."""

    tokens: Literal["last", "all", "mean"] = "last"
    """Of each piece its last token, all tokens, or the mean of its tokens."""

    block_sizes: str = "1:L-1"
    """How many blocks to drop: a range as 1:L-1 (L blocks in all), or numbers with commas."""

    csv: bool = False
    """Write angular.csv too."""


def run(config: AngularConfig) -> Answer:
    """Measure, and write the files."""
    from loralab.analysis.layers.angular import Sampling, analyse_angular

    sampling = Sampling(
        data=config.data, samples=config.samples, max_len=config.max_len, tokens=config.tokens, seed=config.seed
    )
    answer = analyse_angular(open_stream(config), Path(config.out), sampling, config.block_sizes, csv=config.csv)
    say(answer["notes"])
    return answer


def show(answer: Answer) -> None:
    """The best blocks of each size."""
    title = f"Blocks to drop of {answer['model']}, {answer['blocks']} in all, {answer['samples']} samples"
    show_table(title, ("n", "blocks", "distance"), [_line(best) for best in answer["best"]], words=0)
    show_lines("distance: mean angle / π, 0 parallel, 1/2 orthogonal; blocks from 0")
    show_files(answer["files"])


def _line(best: Answer) -> list[str]:
    last = best["end_exclusive"] - 1
    blocks = str(last) if best["n"] == 1 else f"{best['start']}-{last}"
    return [str(best["n"]), blocks, f"{best['distance']:.4f}"]


VERB = Verb(
    AngularConfig, run, show, example="loralab analyse angular --model smollm2-135m --out out/angular", needs=("plots",)
)
