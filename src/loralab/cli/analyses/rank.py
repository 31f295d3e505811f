"""`loralab analyse rank`: which rank was enough."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from loralab.cli.flags import MeasuredAdapter, WritesFolder
from loralab.cli.opening import open_measured
from loralab.cli.showing import show_files, show_lines, show_table
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import ADAPTER, FilesAmong, writing
from loralab.files.whole import replacing

FILES = FilesAmong(("rank.json", "rank.png", "suggested.toml"))


@dataclass(frozen=True, kw_only=True)
class RankConfig(MeasuredAdapter, WritesFolder):
    """The flags of `loralab analyse rank`."""

    out: str
    """Folder for the curve, the adapter at the knee's rank, and one with ranks per module."""

    ranks: tuple[int, ...] | None = None
    """Ranks to measure; the default is 1, 2, 4, … and the rank as trained, which is always measured."""

    share: float = 0.95
    """The knee is the smallest of these ranks that keeps this share of the gain."""


def run(config: RankConfig) -> Answer:
    """Load, cut to one rank after another, write the files."""
    from loralab.analysis.adapters.rank import SUGGESTED, TRUNCATED

    with ExitStack() as places:
        places.enter_context(writing(config.out, FILES, overwrite=config.overwrite, reads=(config.data,)))
        for name in (TRUNCATED, SUGGESTED):
            out, reads = str(Path(config.out) / name), (config.model, config.adapter)
            places.enter_context(writing(out, ADAPTER, overwrite=config.overwrite, reads=reads))
        if config.overwrite:
            places.enter_context(replacing(Path(config.out)))
        return _analyse(config)


def _analyse(config: RankConfig) -> Answer:
    from loralab.analysis.adapters.rank import analyse_rank, prepare

    files = prepare(config.adapter, Path(config.out))
    adapter, measurement = open_measured(config)
    return analyse_rank(
        files,
        adapter,
        measurement,
        Path(config.out),
        ranks=config.ranks,
        share=config.share,
        allow_other_base=config.allow_other_base,
    )


def show(answer: Answer) -> None:
    """The curve, the knee, and the adapters that were written."""
    title = f"{answer['metric']} on {answer['examples']} examples of {answer['task']}, {answer['split']}"
    columns = ("rank", answer["metric"], "of the gain", "energy kept", "")
    show_table(title, columns, [_line(point, answer) for point in answer["curve"]], words=0)
    for name, says in (("truncated", "the knee's rank"), ("suggested", "ranks per module, the same energy")):
        if name in answer:
            each = answer[name]
            show_lines(
                f"{name}: {says}: {answer['metric']} {each['metric']:.4f}, "
                f"{100 * each['gain_share']:.1f}% of the gain, error {each['error']:.3f}, "
                f"{each['parameters']:,} of {each['parameters_before']:,} parameters"
            )
    show_lines(*answer["notes"])
    show_files(answer["files"])


def _line(point: Answer, answer: Answer) -> list[str]:
    share = "-" if point["gain_share"] is None else f"{100 * point['gain_share']:.1f}%"
    knee = f"knee: {100 * answer['share']:g}% or more" if point["rank"] == answer["knee"] else ""
    return [str(point["rank"]), f"{point['metric']:.4f}", share, f"{100 * point['energy']:.1f}%", knee]


VERB = Verb(
    RankConfig,
    run,
    show,
    example="loralab analyse rank --model smollm2-135m --adapter out/r8 \\\n  --task docstrings --out out/rank",
    needs=("plots",),
)
