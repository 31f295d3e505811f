"""`loralab analyse spectrum`: how many directions an adapter used of those that its rank allows."""

from dataclasses import dataclass
from pathlib import Path

from loralab.cli.flags import ChoosesModules, GivesAlpha, ReadsAdapter, WritesFolder
from loralab.cli.showing import show_kinds
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import FilesAmong, writing

FILES = FilesAmong(("spectrum.json", "spectrum.png"))


@dataclass(frozen=True, kw_only=True)
class SpectrumConfig(ReadsAdapter, ChoosesModules, GivesAlpha, WritesFolder):
    """The flags of `loralab analyse spectrum`."""

    out: str
    """Folder for spectrum.json and spectrum.png."""


def run(config: SpectrumConfig) -> Answer:
    """Look at every update, and write the files."""
    from loralab.analysis.adapters.spectrum import analyse_spectrum

    with writing(config.out, FILES, overwrite=config.overwrite):
        return analyse_spectrum(config.adapter, Path(config.out), modules=config.modules, alpha=config.alpha)


def show(answer: Answer) -> None:
    """A line for each kind of module."""
    columns = {
        "rank": "rank",
        "effective_rank": "effective",
        "rank_for_90": "for 90%",
        "rank_for_99": "for 99%",
        "norm": "‖ΔW‖",
    }
    show_kinds(answer, f"Singular values of {answer['adapter']}, means of modules", columns)
    print("effective: exp of the entropy of σ/Σσ; for 90%: the rank that keeps 90% of ‖ΔW‖²")


VERB = Verb(SpectrumConfig, run, show, example="loralab analyse spectrum out/r64 --out out/spectrum", needs=("plots",))
