"""What a report shows, collected from the folders that runs, comparisons and analyses wrote.

Each kind of result is known by the file that it leaves (`run.json`, `results.json`, `subspace.json`, …) and by what is
in it: a file of that name without its keys is another program's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loralab.analysis.report.kinds.analysis import analysis_section
from loralab.analysis.report.kinds.comparison import comparison_section
from loralab.analysis.report.kinds.latency import latency_section
from loralab.analysis.report.kinds.run import run_section
from loralab.analysis.report.section import Section, read_object
from loralab.errors import NotFoundError, SpecError

Read = Callable[[str, Path, dict[str, Any]], Section]
"""The file's name without its ending, its folder, its content."""


@dataclass(frozen=True)
class Kind:
    """One kind."""

    read: Read
    keys: Sequence[str]
    """What its JSON always has; a file without them is another program's."""


_ANALYSES: Mapping[str, Sequence[str]] = {
    "subspace": ("compared", "modules"),
    "amplification": ("kinds", "modules"),
    "spectrum": ("modules",),
    "rank": ("curve", "metric"),
    "resize": ("modules", "error"),
    "matrices": ("parts", "metric"),
    "angular": ("D", "best"),
    "prune": ("before", "removed"),
    "linearity": ("scores",),
    "linearize": ("before", "runs"),
    "forgetting": ("texts",),
    "doctor": ("findings",),
}
KINDS: dict[str, Kind] = {
    "run": Kind(run_section, ("config",)),
    "results": Kind(comparison_section, ("rows", "metric")),
    "latency": Kind(latency_section, ("rows", "model")),
    "loralab_merge": Kind(analysis_section, ("max_abs_logit_error",)),
    **{name: Kind(analysis_section, keys) for name, keys in _ANALYSES.items()},
}
"""By the name of the file that each leaves."""
SKIPPED = ("cells", "checkpoints", "tensorboard")
"""Folders that hold parts of a result that is shown as a whole."""


@dataclass(frozen=True)
class Collected:
    """The results, in the order given, and what was left aside and why."""

    sections: Sequence[Section]
    ignored: Sequence[str] = ()


def collect(paths: Sequence[str]) -> Collected:
    """Every known result in the folders and below them; one that is named twice comes once.

    Raises NotFoundError for a folder that is not there, SpecError for one that holds no result or a damaged one.
    """
    found: dict[tuple[Path, str], Section] = {}
    ignored: list[str] = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise NotFoundError(f"no such folder: {path}; name one that loralab wrote a run or an analysis to")
        here = {
            (folder.resolve(), section.kind): section
            for folder in _folders(path, set())
            for section in _sections_of(folder, ignored)
        }
        if not here:
            raise SpecError(f"{path} holds nothing that a report shows; {_expected(ignored)}")
        found |= {key: each for key, each in here.items() if key not in found}
    return Collected(list(found.values()), list(dict.fromkeys(ignored)))


def _expected(ignored: Sequence[str]) -> str:
    known = "a result is known by its file: " + ", ".join(f"{marker}.json" for marker in KINDS)
    return "; ".join([*ignored, known])


def _folders(path: Path, seen: set[Path]) -> Iterator[Path]:
    """The folder and all below it, each once: links may lead in circles."""
    if path.resolve() in seen:
        return
    seen.add(path.resolve())
    yield path
    for inner in sorted(each for each in path.iterdir() if each.is_dir()):
        if inner.name not in SKIPPED and not inner.name.startswith("."):
            yield from _folders(inner, seen)


def _sections_of(folder: Path, ignored: list[str]) -> Iterator[Section]:
    for marker, kind in KINDS.items():
        file = folder / f"{marker}.json"
        if file.is_file():
            content = read_object(file)
            missing = [key for key in kind.keys if key not in content]
            if missing:
                ignored.append(f"{file} is not a result of loralab, which has {', '.join(missing)}: ignored")
                continue
            yield _read(file, content, marker)
        elif (folder / f"{marker}.png").is_file():
            ignored.append(f"{folder / marker}.png has no {marker}.json beside it: ignored; make the result again")


def _read(file: Path, content: dict[str, Any], marker: str) -> Section:
    try:
        return KINDS[marker].read(marker, file.parent, content)
    except (LookupError, TypeError, AttributeError, ValueError) as problem:
        if isinstance(problem, SpecError):
            raise
        raise SpecError(
            f"{file} is damaged, or of another version of loralab ({type(problem).__name__}: {problem}); make the "
            "result again, or move it elsewhere"
        ) from problem
