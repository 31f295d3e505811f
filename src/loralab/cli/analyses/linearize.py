"""`loralab analyse linearize`: affine maps in the place of blocks, beside the same blocks dropped."""

from dataclasses import dataclass
from pathlib import Path

from loralab.analysis.layers.config import Clouds
from loralab.cli.analyses.prune import MeasureConfig, show_measures
from loralab.cli.flags import NamesModel, WritesFolder
from loralab.cli.opening import open_decoder
from loralab.cli.showing import show_files, show_lines
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import LINEARIZED, writing


@dataclass(frozen=True, kw_only=True)
class LinearizeConfig(NamesModel, Clouds, MeasureConfig, WritesFolder):
    """The flags of `loralab analyse linearize`."""

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
        clouds=config,
        distilling=Distilling(
            steps=config.distill, lr=config.distill_lr, batch=config.distill_batch, states=config.distill_states
        ),
    )
    with writing(config.out, LINEARIZED, overwrite=config.overwrite, reads=(config.model, config.from_)):
        return linearize(linearizing, Path(config.out), config, open_decoder, config.dtype)


def show(answer: Answer) -> None:
    """The measures beside each other, and how well the maps fit."""
    show_measures(f"{answer['model']} with affine maps for blocks", answer)
    show_lines("dropped: without these blocks; replaced: with the maps", *map(_fit, answer["runs"]))
    if training := answer.get("distillation"):
        before, after = training["before"], training["after"]
        show_lines(
            f"distilled: with the maps after {training['steps']} steps in {training['seconds']:.0f} s; from the whole "
            f"model, on {training['tried_on']}: divergence {before['divergence']:.3f} to {after['divergence']:.3f} "
            f"nats a token, states' errors {before['states']:.3f} to {after['states']:.3f}"
        )
    show_files(answer["files"])


def _fit(run: Answer) -> str:
    held_out = run["explained_held_out"]
    other = "" if held_out is None else f", {held_out:.3f} of other text"
    return f"{run['blocks']}: the map explains {run['explained']:.3f} of what they add{other}"


VERB = Verb(
    LinearizeConfig,
    run,
    show,
    example="loralab analyse linearize --model smollm2-135m --distill 50 --out out/l",
    needs=("plots",),
)
