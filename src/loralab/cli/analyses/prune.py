"""`loralab analyse prune`: a model without some of its blocks, measured before, after and healed."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loralab.analysis.layers.config import Measuring, Sampling
from loralab.cli.flags import NamesModel, Precision, WritesFolder
from loralab.cli.opening import open_decoder
from loralab.cli.showing import show_files, show_lines, show_table
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import PRUNED, writing
from loralab.errors import SpecError
from loralab.training.command import folded

STATES = ("before", "after", "dropped", "replaced", "distilled", "healed")


@dataclass(frozen=True, kw_only=True)
class MeasureConfig(Measuring):
    """What a changed model is measured on, and in which precision."""

    dtype: Precision = "auto"
    """Precision to measure in; what is written has that of the model's files."""


@dataclass(frozen=True, kw_only=True)
class PruneConfig(NamesModel, MeasureConfig, WritesFolder):
    """The flags of `loralab analyse prune`."""

    n: int
    """How many blocks to drop."""

    out: str
    """Folder to write; transformers loads it without loralab."""

    strategy: Literal["similarity", "deepest"] = "similarity"
    """Drop the blocks that turn the residual stream least, or the deepest but the last."""

    from_: str | None = None
    """The angular.json of `loralab analyse angular`; without it the distances are measured here."""

    healed: str | None = None
    """An adapter trained on the pruned model in OUT: measure it too, without writing the model again."""

    samples: int = 256
    """Pieces of text for the distances, where they are measured here."""

    max_len: int = 512
    """Tokens that such a piece may have."""


def run(config: PruneConfig) -> Answer:
    """Choose the blocks, write the model, measure."""
    if config.healed is not None and config.overwrite:
        raise SpecError("--healed measures the folder that is there, --overwrite replaces it; give one of them")
    from loralab.analysis.layers.prune import Pruning, prune

    sampling = Sampling(data=config.data, samples=config.samples, max_len=config.max_len, seed=config.seed)
    pruning = Pruning(
        model=config.model, count=config.n, strategy=config.strategy, angular=config.from_, sampling=sampling
    )
    reads = (config.model, config.from_)
    stays = config.healed is not None
    with nullcontext() if stays else writing(config.out, PRUNED, overwrite=config.overwrite, reads=reads):
        return prune(pruning, Path(config.out), config, lambda name: open_decoder(name, config.dtype), config.healed)


def show(answer: Answer) -> None:
    """The measures beside each other, and what to do next."""
    removed = ", ".join(map(str, answer["removed"])) or "none"
    show_measures(f"{answer['model']} without blocks {removed} (from 0)", answer)
    if answer["healed_by"] is None:
        print(f"heal it:\n{folded(answer['heal'])}")
        show_lines(f"then give this command again with --healed {answer['out']}-healed")
    show_files(answer["files"])


def show_measures(title: str, answer: Answer) -> None:
    """Print a line for each state of the model that was measured."""
    states = {name: answer[name] for name in STATES if isinstance(answer.get(name), dict)}
    metrics = list(next(iter(states.values()))["metrics"])[-3:]
    rows = [_line(name, measures, metrics) for name, measures in states.items()]
    show_table(title, ("", "perplexity", "task loss", *metrics), rows)


def _line(name: str, measures: dict[str, Any], metrics: list[str]) -> list[str]:
    loss = "-" if measures["task_loss"] is None else f"{measures['task_loss']:.3f}"
    return [name, f"{measures['perplexity']:,.2f}", loss, *(f"{measures['metrics'][each]:.2f}" for each in metrics)]


VERB = Verb(
    PruneConfig,
    run,
    show,
    example=("loralab analyse prune --model smollm2-135m --n 4 \\\n  --from out/angular/angular.json --out out/pruned"),
    needs=("plots",),
)
