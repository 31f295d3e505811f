"""`loralab analyse angular`: how far each run of blocks turns the residual stream."""

from dataclasses import dataclass
from pathlib import Path

from loralab.analysis.layers.config import Sampling
from loralab.cli.flags import ReadsText, WritesFolder
from loralab.cli.opening import open_stream, say
from loralab.cli.showing import show_files, show_lines, show_table
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import FilesAmong, writing

FILES = FilesAmong(("angular.json", "angular.png", "angular.csv"))


@dataclass(frozen=True, kw_only=True)
class AngularConfig(Sampling, ReadsText, WritesFolder):
    """The flags of `loralab analyse angular`."""

    out: str
    """Folder for angular.json and angular.png."""

    block_sizes: str = "1:L-1"
    """How many blocks to drop: a range as 1:L-1 (L blocks in all), or numbers with commas."""

    csv: bool = False
    """Write angular.csv too."""


def run(config: AngularConfig) -> Answer:
    """Measure, and write the files."""
    from loralab.analysis.layers.angular import analyse_angular

    with writing(config.out, FILES, overwrite=config.overwrite, reads=(config.data,)):
        answer = analyse_angular(open_stream(config), Path(config.out), config, config.block_sizes, csv=config.csv)
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
