"""What a report shows, collected from the folders that runs, comparisons and analyses wrote.

Each kind of result is known by the file that it leaves (`run.json`, `results.json`, `subspace.json`, …) and by what is
in it: a file of that name without its keys is another program's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loralab.analysis.report.kinds.known import KINDS
from loralab.analysis.report.section import Section, read_object
from loralab.errors import NotFoundError, SpecError

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
