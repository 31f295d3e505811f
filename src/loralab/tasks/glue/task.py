"""GLUE: one sentence or two -> a class, or for STS-B a value. Read from the official TSV files, or from the Hub.

The files are those of the official downloads: the root folder with `CoLA/train.tsv` …, a task's own folder, or a
single file. The test sets have no labels: they can be predicted, and are scored by GLUE's server. For MNLI the
split `validation` is both validation sets, the matched one first, each also scored apart.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from loralab.errors import DataError, NotFoundError, SpecError
from loralab.tasks.example import Examples, LabelledExample
from loralab.tasks.glue.files import HIGHEST, LOWEST, glue_outputs, read_table
from loralab.tasks.glue.table import (
    DOWNLOAD,
    FILES,
    GLUE,
    HUB,
    HUB_TEXTS,
    MNLI_FILES,
    MNLI_PARTS,
    MNLI_SUBMISSIONS,
    GlueTask,
)
from loralab.tasks.hub import HubSet
from loralab.tasks.official import official_files
from loralab.tasks.readers.lines import Line
from loralab.tasks.task import Task


def open_glue(name: str, data: str | None, labels: Sequence[str] | None = None) -> Task:
    """The task `glue/name`. With `labels`, those that a trained model has, the classes are in that order.

    Raises `NotFoundError` for a path that is not there or a folder with none of the files, and `SpecError` for
    labels of another task.
    """
    glue = GLUE[name]
    files = MNLI_FILES if name == "mnli" else FILES
    classes = _ordered(name, tuple(glue.labels.values()), labels)
    paths: dict[str, Path] = {}
    if data is None:
        readers = {split: cache(partial(_from_hub, name, split, classes)) for split in files if split != "diagnostic"}
    else:
        paths = _files(name, data, files)
        readers = {split: cache(partial(_from_file, path, glue, classes)) for split, path in paths.items()}
    return Task(
        name=f"glue/{name}",
        kind="classification" if classes else "regression",
        splits=_with_both(readers),
        metrics=glue.metrics,
        labels=classes,
        notes=("torn rows of the official QQP files, which have too few cells, are left out",)
        if glue.torn_rows
        else (),
        files=tuple(paths.values()),
        outputs=glue_outputs(glue.labels, MNLI_SUBMISSIONS if name == "mnli" else {"test": glue.submission}),
    )


def _ordered(name: str, own: tuple[str, ...], labels: Sequence[str] | None) -> tuple[str, ...]:
    if labels is None:
        return own
    if sorted(labels) != sorted(own):
        raise SpecError(
            f"task glue/{name} has the labels {', '.join(own) or 'of a regression, none'}, but the model was trained "
            f"on {', '.join(labels)}; give the task that it was trained on"
        )
    return tuple(labels)


def _files(name: str, data: str, files: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """The task's files: below its folder in the GLUE root, or in `data` itself; or the one file that `data` is."""
    root, folder = Path(data), GLUE[name].folder
    if (root / folder).is_dir():
        return official_files(f"glue/{name}", str(root / folder), files)
    if root.is_dir() and not any((root / each).is_file() for names in files.values() for each in names):
        raise NotFoundError(
            f"task glue/{name}: {root} has neither the folder {folder} nor {files['train'][0]}; "
            "give the GLUE root folder, as the official downloads lay it out"
        )
    return official_files(f"glue/{name}", data, files)


def _with_both(readers: Mapping[str, Callable[[], Examples]]) -> dict[str, Callable[[], Examples]]:
    """MNLI's two validation sets also as one, where both are there; other tasks' splits as they are."""
    halves = {part: readers[f"validation_{part}"] for part in MNLI_PARTS if f"validation_{part}" in readers}
    if len(halves) < len(MNLI_PARTS):
        return dict(readers)
    return dict(readers) | {"validation": cache(partial(_joined, halves))}


def _joined(readers: Mapping[str, Callable[[], Examples]]) -> Examples:
    return tuple(
        LabelledExample(each.text_a, each.text_b, each.label, part)
        for part, read in readers.items()
        for each in read()
        if isinstance(each, LabelledExample)
    )


def _from_file(path: Path, glue: GlueTask, classes: tuple[str, ...]) -> Examples:
    rows = read_table(path, glue.columns, torn_rows=glue.torn_rows)
    return tuple(_example(row, glue, classes) for row in rows)


def _example(row: Line, glue: GlueTask, classes: tuple[str, ...]) -> LabelledExample:
    missing = [column for column in glue.texts if column not in row.content]
    if missing:
        raise row.error(f"there is no column {', '.join(missing)}; give GLUE's own {glue.folder} file")
    first, *second = (row.content[column] for column in glue.texts)
    label = _label(row, glue, classes) if glue.label in row.content else None
    return LabelledExample(first, second[0] if second else None, label)


def _label(row: Line, glue: GlueTask, classes: tuple[str, ...]) -> int | float:
    word = row.content[glue.label]
    if glue.labels:
        if word not in glue.labels:
            raise row.error(f"the label is {word!r:.80}; it must be one of {', '.join(glue.labels)}")
        return classes.index(glue.labels[word])
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    if not LOWEST <= value <= HIGHEST:
        raise row.error(f"the score is {word!r:.80}; it must be a number from 0 to 5")
    return value


def _from_hub(name: str, split: str, classes: tuple[str, ...]) -> Examples:
    glue = GLUE[name]
    names = ", ".join(f"{glue.folder}/{files[0]}" for files in (MNLI_FILES if name == "mnli" else FILES).values())
    hub = HubSet(f"glue/{name}", HUB, f"{names}, from {DOWNLOAD}", name)
    return tuple(_hub_examples(hub.rows(split), HUB_TEXTS.get(name, glue.texts), tuple(glue.labels.values()), classes))


def _hub_examples(
    rows: Iterable[dict[str, Any]], texts: tuple[str, ...], own: tuple[str, ...], classes: tuple[str, ...]
) -> Iterable[LabelledExample]:
    """The Hub's classes are numbered in GLUE's order; -1 stands for a label that is not public."""
    for number, row in enumerate(rows, start=1):
        if any(column not in row for column in (*texts, "label")):
            raise DataError(f"row {number} from the Hub has the columns {', '.join(row)}, expected {', '.join(texts)}")
        first, *second = (str(row[column]).strip() for column in texts)
        label = None if row["label"] == -1 else classes.index(own[int(row["label"])]) if own else float(row["label"])
        yield LabelledExample(first, second[0] if second else None, label)
