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
    together: --model of its other verbs takes the folder."""

    blocks: str = "auto:1"
    """Which blocks: auto:K, the K most linear without their residual; or numbers from 0, as 6-8 or 3,6-8. Neighbours
    get one map together."""

    from_: str | None = None
    """The linearity.json of `loralab analyse linearity`, for auto:K; without it the blocks are scored here."""

    ridge: float = 1e-4
    """The penalty on each coordinate of the map, times that coordinate's variance. A large one drops the blocks."""

    distill: int = 0
    """Train the maps for this many steps to follow the whole model: its next-token distributions and its states."""

    distill_lr: float = 1e-3
    """The learning rate at the start of it, for weights in units of the deviations they connect; it falls to zero."""

    distill_batch: int = 2
    """Pieces of --chars characters in a step."""

    distill_states: float = 1.0
    """Weight of the states' errors beside the distributions'; 0 leaves them out."""


def run(config: LinearizeConfig) -> Answer:
    """Choose, fit, write, measure."""
    from loralab.analysis.layers.distill import Distilling
    from loralab.analysis.layers.linearize import Linearizing, linearize

    linearizing = Linearizing(
        model=config.model,
        blocks=config.blocks,
        scores=config.from_,
        ridge=config.ridge,
        clouds=config.clouds(config.data, config.seed),
        distilling=Distilling(
            steps=config.distill, lr=config.distill_lr, batch=config.distill_batch, states=config.distill_states
        ),
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
    if found := answer.get("distillation"):
        before, after = found["before"], found["after"]
        page.print(
            f"distilled: with the maps after {found['steps']} steps in {found['seconds']:.0f} s; from the whole model, "
            f"on {found['tried_on']}: divergence {before['divergence']:.3f} to {after['divergence']:.3f} nats a token, "
            f"states' errors {before['states']:.3f} to {after['states']:.3f}",
            markup=False,
        )
    for path in answer["files"]:
        print(path)


VERB = Verb(
    LinearizeConfig,
    run,
    show,
    example="loralab analyse linearize --model smollm2-135m --distill 50 --out out/l",
)
