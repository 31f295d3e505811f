"""`loralab analyse spectrum`: how many directions an adapter used of those that its rank allows."""

from dataclasses import dataclass, field
from pathlib import Path

from loralab.cli.analyses.kinds_table import show_kinds
from loralab.cli.verb import Answer, Verb


@dataclass(frozen=True, kw_only=True)
class SpectrumConfig:
    """Everything that `loralab analyse spectrum` can be told."""

    adapter: str = field(metadata={"positional": True})
    """The adapter: its folder (ours or PEFT's), or a loralib checkpoint."""

    out: str
    """Folder for spectrum.json and spectrum.png."""

    modules: str | None = None
    """Only modules whose path this regular expression is found in."""

    alpha: float | None = None
    """The alpha of a loralib checkpoint, which does not record it."""


def run(config: SpectrumConfig) -> Answer:
    """Look at every update, and write the files."""
    from loralab.analysis.adapters.spectrum_report import analyse_spectrum

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


VERB = Verb(SpectrumConfig, run, show, example="loralab analyse spectrum out/r64 --out out/spectrum")
