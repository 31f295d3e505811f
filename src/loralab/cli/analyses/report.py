"""`loralab analyse report`: one page to look at, of one or several runs and what was measured on them."""

from dataclasses import dataclass, field
from pathlib import Path

from loralab.cli.flags import WritesFolder
from loralab.cli.showing import show_answer
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import PAGE, writing
from loralab.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class ReportConfig(WritesFolder):
    """The flags of `loralab analyse report`."""

    folders: tuple[str, ...] = field(metadata={"positional": True})
    """Folders that train, compare, merge, bench latency and analyse wrote; folders within them are looked into too."""

    out: str
    """The page to write: report.html."""

    title: str = "loralab report"
    """The page's heading."""


def run(config: ReportConfig) -> Answer:
    """Collect what is there and write the page."""
    from loralab.analysis.report.collect import collect
    from loralab.analysis.report.page import write_report

    if not config.folders:
        raise SpecError("report needs the folder of at least one run or analysis")
    out = Path(config.out)
    if out.is_dir():
        raise SpecError(f"--out {out} is a folder; name the page, as {out / 'report.html'}")
    with writing(config.out, PAGE, overwrite=config.overwrite):
        collected = collect(config.folders)
        write_report(collected, out, config.title)
    kinds = [section.kind for section in collected.sections]
    drawn = sum(len(section.drawings) + len(section.pictures) for section in collected.sections)
    return {
        "out": str(out), "sections": kinds, "pictures": drawn, "ignored": list(collected.ignored),
        "bytes": out.stat().st_size,
    }  # fmt: skip


VERB = Verb(ReportConfig, run, show_answer, example="loralab analyse report out/r8 out/subspace --out out/report.html")
