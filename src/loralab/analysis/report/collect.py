"""What a report shows, collected from the folders that runs, comparisons and analyses wrote.

Each kind of result is known by the file that it leaves: `run.json`, `results.json`, `subspace.json`, …
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loralab.analysis.report.reading import HOW_TO_READ
from loralab.errors import NotFoundError, SpecError

Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]
SKIPPED = ("cells", "checkpoints", "tensorboard")
"""Folders that hold parts of a result that is shown as a whole."""
MOST_ROWS = 200
"""Of a table; the file has them all."""


@dataclass(frozen=True)
class ResultTable:
    """Columns, and rows of numbers, words or None."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    left_out: int = 0


@dataclass(frozen=True)
class Section:
    """One result: what it is, how to read it, and what it found."""

    kind: str
    title: str
    folder: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: Sequence[ResultTable] = ()
    sentences: Sequence[str] = ()
    lines: Lines = field(default_factory=dict)
    pictures: Sequence[Path] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The configuration, shown folded."""

    @property
    def how_to_read(self) -> str:
        """A sentence or two."""
        return HOW_TO_READ[self.kind]


def sections(paths: Sequence[str]) -> list[Section]:
    """Every known result in the folders and below them, in the order given.

    Raises NotFoundError for a folder that is not there, SpecError for one that holds no result.
    """
    collected = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise NotFoundError(f"no such folder: {path}; name one that loralab wrote a run or an analysis to")
        here = [section for folder in _folders(path) for section in _sections_of(folder)]
        if not here:
            known = ", ".join(f"{marker}.json" for marker in _READERS)
            raise SpecError(f"{path} holds nothing that a report shows; a result is known by its file: {known}")
        collected += here
    return collected


def _folders(path: Path) -> Iterator[Path]:
    yield path
    for inner in sorted(each for each in path.iterdir() if each.is_dir() and each.name not in SKIPPED):
        yield from _folders(inner)


def _sections_of(folder: Path) -> Iterator[Section]:
    for marker, read in _READERS.items():
        file = folder / f"{marker}.json"
        if file.is_file():
            yield read(marker, folder, _content(file))


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise SpecError(f"{file} is not complete JSON ({problem}); make the result again") from problem
    if not isinstance(content, dict):
        raise SpecError(f"{file} should hold one JSON object, and holds a {type(content).__name__}")
    return content


# -- each kind ----------------------------------------------------------------------------------------------------


def _run(marker: str, folder: Path, content: dict[str, Any]) -> Section:
    result, config = content.get("result") or {}, content.get("config", {})
    lines = _curves(folder / "metrics.jsonl")
    facts = {
        "method": config.get("method"),
        "model": config.get("model"),
        "task": config.get("task"),
        "trained parameters": result.get("trainable_params"),
        "of": result.get("total_params"),
        "steps": result.get("steps"),
        "tokens a second": result.get("tokens_per_second"),
        "peak memory, MB": result["peak_memory_bytes"] / 1e6 if "peak_memory_bytes" in result else None,
    } | {f"held-out {name}": value for name, value in result.get("metrics", {}).items()}
    unfinished = [] if result else ["This run has not ended: what is here is what it wrote so far."]
    return Section(marker, folder.name, folder, facts, sentences=unfinished, lines=lines, settings=config)


def _curves(file: Path) -> Lines:
    """Loss by step, of the training steps and of the measurements."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        entry = json.loads(line)
        if isinstance(entry.get("loss"), int | float):
            x, y = curves.setdefault("training" if entry.get("split") == "train" else "held out", ([], []))
            x.append(entry["step"])
            y.append(entry["loss"])
    return curves


def _comparison(marker: str, folder: Path, content: dict[str, Any]) -> Section:
    metric = content.get("metric", "loss")
    columns = ["method", "trained", metric, "seeds", "tokens/s", "memory, MB"]
    rows = [
        [
            row["label"],
            row["trainable_params"],
            _spread(row["metrics"].get(metric)),
            len(row["seeds"]),
            row["tokens_per_second"],
            None if row["peak_memory_bytes"] is None else row["peak_memory_bytes"] / 1e6,
        ]
        for row in content.get("rows", ())
    ]
    claims = [_claim(each) for each in content.get("claims", ())]
    pictures = sorted(folder.glob("*.png"))
    return Section(
        "comparison", folder.name, folder, tables=[ResultTable(columns, rows)], sentences=claims, pictures=pictures
    )


def _claim(claim: Mapping[str, Any]) -> str:
    """What was claimed, whether it held, and the figures; a claim that was not tested says so by itself."""
    held = {True: "held. ", False: "did not hold. ", None: ""}[claim["held"]]
    measured = claim["found"][:1].upper() + claim["found"][1:] if held else claim["found"]
    return f"{claim['claim']}: {held}{measured}."


def _spread(values: Mapping[str, float] | None) -> str | None:
    return None if values is None else f"{values['mean']:.2f} ± {values['sd']:.2f}"


def _latency(marker: str, folder: Path, content: dict[str, Any]) -> Section:
    names = ["batch", "sequence", "contender", "size", "milliseconds", "ratio", "ratio_low", "ratio_high"]
    rows = [[row.get(name) for name in names] for row in content.get("rows", ())]
    facts = {name: content.get(name) for name in ("model", "dtype", "threads", "random_weights")}
    table = ResultTable(names, rows[:MOST_ROWS], max(len(rows) - MOST_ROWS, 0))
    return Section(marker, folder.name, folder, facts, [table], pictures=sorted(folder.glob("latency*.png")))


def _merge(marker: str, folder: Path, content: dict[str, Any]) -> Section:
    return Section("merge", folder.name, folder, _scalars(content))


def _analysis(marker: str, folder: Path, content: dict[str, Any]) -> Section:
    """Numbers as facts, lists and nested objects of them as tables, and every picture of that name."""
    tables = [_table(name, value) for name, value in content.items() if isinstance(value, list | dict) and value]
    return Section(
        marker,
        folder.name,
        folder,
        _scalars(content),
        [table for table in tables if table is not None],
        pictures=sorted(folder.glob(f"{marker}*.png")),
    )


def _scalars(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("_", " "): value for name, value in content.items() if not isinstance(value, list | dict)}


def _table(name: str, value: Any) -> ResultTable | None:
    """A list of objects has a row for each; an object of objects too, with the names in front."""
    if isinstance(value, dict):
        rows = [{name: key} | inner for key, inner in value.items() if isinstance(inner, dict)]
    else:
        rows = [row for row in value if isinstance(row, dict)]
    if not rows:
        return None
    columns = [key for key, inner in rows[0].items() if not isinstance(inner, list | dict)]
    columns.sort(key=lambda column: not isinstance(rows[0][column], str))  # words in front of numbers
    shown = [[row.get(column) for column in columns] for row in rows[:MOST_ROWS]]
    return ResultTable([column.replace("_", " ") for column in columns], shown, max(len(rows) - MOST_ROWS, 0))


_ANALYSES = [name for name in HOW_TO_READ if name not in ("run", "comparison", "latency", "merge")]
_READERS: dict[str, Callable[[str, Path, dict[str, Any]], Section]] = {
    "run": _run,
    "results": _comparison,
    "latency": _latency,
    "loralab_merge": _merge,
    **dict.fromkeys(_ANALYSES, _analysis),
}
