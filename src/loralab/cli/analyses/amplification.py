"""`loralab analyse amplification`: by how much an adapter amplifies what the base has but does not emphasise."""

from dataclasses import dataclass
from pathlib import Path

from loralab.cli.flags import ChoosesModules, GivesAlpha, NamesModel, ReadsAdapter, WritesFolder
from loralab.cli.opening import load_base, wanted_by
from loralab.cli.showing import show_kinds
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import FilesAmong, writing

FILES = FilesAmong(("amplification.json", "amplification.png"))


@dataclass(frozen=True, kw_only=True)
class AmplificationConfig(ReadsAdapter, NamesModel, ChoosesModules, GivesAlpha, WritesFolder):
    """The flags of `loralab analyse amplification`."""

    out: str
    """Folder for amplification.json and amplification.png."""

    rank: int | None = None
    """How many directions to look at, r of Table 7; without it all that an update has."""

    seed: int = 0
    """Of the random directions."""


def run(config: AmplificationConfig) -> Answer:
    """Measure every module, and write the files."""
    with writing(config.out, FILES, overwrite=config.overwrite):
        return _analyse(config)


def _analyse(config: AmplificationConfig) -> Answer:
    from loralab.analysis.adapters.amplification import analyse_amplification

    model = load_base(config.model, "auto", wanted_by(config.adapter), adapter=config.adapter).model
    return analyse_amplification(
        config.adapter,
        model,
        Path(config.out),
        rank=config.rank,
        modules=config.modules,
        alpha=config.alpha,
        seed=config.seed,
    )


def show(answer: Answer) -> None:
    """A line for each kind of module: Table 7's columns."""
    columns = {
        "rank": "r",
        "delta_norm": "‖ΔW‖",
        "in_delta": "in ΔW's",
        "in_base": "in W's",
        "in_random": "in random",
        "amplification": "amplified",
    }
    show_kinds(answer, f"‖UᵀWV‖ in the first r directions of …, {answer['adapter']}, medians", columns)
    print("amplified: ‖ΔW‖ / ‖UᵀWV‖ in ΔW's directions.")
    print(f"Paper: {answer['paper']}")


VERB = Verb(
    AmplificationConfig,
    run,
    show,
    example="loralab analyse amplification out/r4 --model smollm2-135m --out out/amp",
    needs=("plots",),
)
