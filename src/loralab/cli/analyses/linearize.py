"""`loralab analyse linearize`: affine maps in the place of blocks, beside the same blocks dropped."""

from dataclasses import dataclass
from pathlib import Path

from loralab.cli.analyses.linearity import CloudConfig
from loralab.cli.analyses.prune import MeasureConfig, measures_table, measuring
from loralab.cli.analyses.residual_stream import console, open_decoder
from loralab.cli.verb import Answer, Verb


@dataclass(frozen=True, kw_only=True)
class LinearizeConfig(CloudConfig, MeasureConfig):
    """Everything that `loralab analyse linearize` can be told."""

    model: str
    """The model: an embedded name (smollm2-135m), a local folder, or a Hub id."""

    out: str
    """Folder to write: the remaining blocks as a Hugging Face folder, and the maps beside it. Only loralab puts them
    together: load_linearized of loralab.models.linearized."""

    blocks: str = "auto:1"
    """Which blocks: auto:K, the K most linear without their residual; or numbers from 0, as 6-8 or 3,6-8. Neighbours
    get one map together."""

    from_: str | None = None
    """The linearity.json of `loralab analyse linearity`, for auto:K; without it the blocks are scored here."""

    ridge: float = 1e-4
    """The penalty on each coordinate of the map, times that coordinate's variance. A large one drops the blocks."""


def run(config: LinearizeConfig) -> Answer:
    """Choose, fit, write, measure."""
    from loralab.analysis.linearize_report import Linearizing, linearize

    clouds = config.clouds(config.data, config.seed)
    linearizing = Linearizing(
        model=config.model, blocks=config.blocks, scores=config.from_, ridge=config.ridge, clouds=clouds
    )
    return linearize(
        linearizing,
        Path(config.out),
        measuring(config),
        open_decoder,
        config.dtype,
    )


def show(answer: Answer) -> None:
    """How well the maps fit, and the measures beside each other."""
    page = console()
    page.print(f"{answer['model']} with affine maps for blocks", style="bold", markup=False)
    for each in answer["runs"]:
        held_out = each["explained_held_out"]
        other = "" if held_out is None else f", {held_out:.3f} of other text"
        page.print(
            f"  {each['blocks']}: the map explains {each['explained']:.3f} of what they add{other}", markup=False
        )
    page.print(measures_table(answer))
    page.print("dropped: without these blocks; replaced: with the maps", markup=False)
    for path in answer["files"]:
        print(path)


VERB = Verb(
    LinearizeConfig,
    run,
    show,
    example="loralab analyse linearize --model smollm2-135m --blocks auto:3 --out out/l",
)
