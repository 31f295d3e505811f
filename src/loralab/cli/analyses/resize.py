"""`loralab analyse resize`: an adapter in a lower rank, and what that costs."""

from dataclasses import dataclass, field

from loralab.cli.flags import ChoosesCheckpoint, WritesFolder
from loralab.cli.showing import show_files, show_lines, show_table
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import ADAPTER, writing
from loralab.errors import SpecError

MOST_ROWS = 20


@dataclass(frozen=True, kw_only=True)
class ResizeConfig(ChoosesCheckpoint, WritesFolder):
    """The flags of `loralab analyse resize`."""

    adapter: str = field(metadata={"positional": True})
    """The adapter's folder, ours or PEFT's. No model is needed."""

    out: str
    """Folder for the new adapter."""

    rank: int | None = None
    """The rank of every module; one that has less keeps what it has."""

    energy: float | None = None
    """Instead of a rank: for every module the smallest rank that keeps this share of the squares of its singular
    values, 0.99 say."""


def run(config: ResizeConfig) -> Answer:
    """Cut, write, and say the error."""
    if (config.rank is None) == (config.energy is None):
        given = "neither was given" if config.rank is None else "both were given"
        raise SpecError(f"resize takes --rank or --energy, {given}; choose one, as --rank 4 or --energy 0.99")
    with writing(config.out, ADAPTER, overwrite=config.overwrite, reads=(config.adapter,)):
        return _resize(config)


def _resize(config: ResizeConfig) -> Answer:
    from loralab.formats.resize import energy_ranks, read_resizable, uniform_ranks, write_resized

    adapter = read_resizable(config.adapter)
    if config.rank is not None:
        ranks, asked = uniform_ranks(adapter, config.rank), f"rank {config.rank}"
    else:
        assert config.energy is not None
        ranks, asked = energy_ranks(adapter, config.energy), f"energy {config.energy:g} of every module"
    resized = write_resized(adapter, ranks, config.out, f"cut by SVD from {adapter.source} to {asked}")
    return resized.to_json()


def show(answer: Answer) -> None:
    """The modules that lost most, and all of them together."""
    modules = sorted(answer["modules"], key=lambda row: -row["error"])
    rows = [
        [row["module"], str(row["rank_before"]), str(row["rank"]), f"{row['error']:.4f}"] for row in modules[:MOST_ROWS]
    ]
    together = ["all together", "", "", f"{answer['error']:.4f}"]
    title = f"Error ‖ΔW − ΔW'‖/‖ΔW‖, {len(modules)} modules"
    show_table(title, ("module", "rank", "new rank", "error"), [*rows, None, together])
    if len(modules) > MOST_ROWS:
        show_lines(f"the {MOST_ROWS} modules that lost most; --json has all {len(modules)}")
    show_lines(f"{answer['parameters_before']:,} → {answer['parameters']:,} parameters in A and B")
    show_files([answer["out"]])


VERB = Verb(ResizeConfig, run, show, example="loralab analyse resize out/r8 --energy 0.99 --out out/r8-resized")
