"""`loralab analyse subspace`: how far the directions of two adapters coincide."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from loralab.cli.flags import ChoosesModules, WritesFolder
from loralab.cli.opening import load_base, wanted_by
from loralab.cli.showing import show_files, show_lines, show_table
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import FilesAmong, writing
from loralab.errors import SpecError

FILES = FilesAmong(("subspace.json", "subspace-*.png"))


@dataclass(frozen=True, kw_only=True)
class SubspaceConfig(ChoosesModules, WritesFolder):
    """The flags of `loralab analyse subspace`."""

    adapters: tuple[str, ...] = field(metadata={"positional": True, "also": ("adapter",)})
    """Two adapters of one base with the same targets: two ranks, or two seeds. Folders (ours or PEFT's), or loralib
    checkpoints. With --model one: it is compared with the weights that it changes.
    """

    out: str
    """Folder for subspace.json and the heat maps."""

    model: str | None = None
    """The base model, for how much of one adapter's directions is in its weights' own (Figure 8)."""

    of: Literal["factors", "update"] = "factors"
    """Singular vectors of A (right) and of B (left), as in the paper, or those of the whole update B·A."""

    seed: int = 0
    """Of the random matrices that stand beside each comparison."""


def run(config: SubspaceConfig) -> Answer:
    """Compare, and write the files."""
    if len(config.adapters) != (2 if config.model is None else 1):
        raise SpecError(
            f"subspace compares two adapters, or with --model one and its base; {len(config.adapters)} were given"
            f"{'' if config.model is None else ' with --model'}: {', '.join(config.adapters)}"
        )
    with writing(config.out, FILES, overwrite=config.overwrite):
        return _analyse(config)


def _analyse(config: SubspaceConfig) -> Answer:
    from loralab.analysis.adapters.subspace import analyse_subspaces

    one, other = config.adapters[0], config.adapters[1] if config.model is None else None
    model = None if config.model is None else load_base(config.model, "auto", wanted_by(one), adapter=one).model
    return analyse_subspaces(
        one, other, Path(config.out), model=model, of=config.of, modules=config.modules, seed=config.seed
    )


def show(answer: Answer) -> None:
    """The means of both sides."""
    one, other = answer["compared"]
    title = f"{one} and {other}: the first {answer['ranks'][0]} and {answer['ranks'][1]} directions, means of modules"
    columns = ("side", "φ(1, 1)", "random", "φ(all, all)", "random", "shared k")
    show_table(title, columns, [_line(side, mean) for side, mean in answer["mean"].items()])
    show_lines(
        "φ 1: one subspace holds the other; random: Gaussian matrices of the same shapes",
        "shared k: the largest k with φ(k, k) above one half, a mean over modules",
    )
    show_files(answer["files"])


def _line(side: str, mean: dict[str, float]) -> list[str]:
    numbers = [f"{mean[name]:.3f}" for name in ("phi_1_1", "random_1_1", "phi_all", "random_all")]
    return [side, *numbers, f"{mean['shared_dimensions']:.1f}"]


VERB = Verb(
    SubspaceConfig, run, show, example="loralab analyse subspace out/r8 out/r64 --out out/subspace", needs=("plots",)
)
