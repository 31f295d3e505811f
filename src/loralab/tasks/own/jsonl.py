"""The user's own rows: one file, or a folder with train.jsonl, validation.jsonl and test.jsonl; JSONL or another kind.

Which files are read is said in `files`, which kinds in `readers.rows`, and which shapes an object may have in `shapes`.
A single file, which may be alone in its folder, is split by its distinct inputs (`inputs`: everything but the answer):
sorted by a hash of the input, the first 5% are the test, the next 5% the validation, at least one each, and the rest is
for training. So the split depends on nothing but the inputs, and no input is on two sides. The split "all" is the whole
file. With fewer than three distinct inputs all of them are for training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from loralab.errors import DataError, SpecError
from loralab.tasks.example import Document, Examples, Preference
from loralab.tasks.official import WHOLE_FILE
from loralab.tasks.own.files import DataFiles, find_data_files, is_text
from loralab.tasks.own.inputs import Rows, split_rows
from loralab.tasks.own.labels import choose_labelling, label_rows
from loralab.tasks.own.shapes import RawLabelled, ignored_keys, parse_lines, shape_of
from loralab.tasks.preference import METRICS
from loralab.tasks.readers.rows import read_rows
from loralab.tasks.readers.unpacked import read_bytes
from loralab.tasks.splits import SPLITS
from loralab.tasks.task import ROUGE, Kind, Task

LABEL_METRICS = {
    "classification": ("accuracy", "f1", "matthews"),
    "regression": ("pearson", "spearman"),
}

AS_TEXT = "the rows hold a text alone: every token of it is learned, as --task text does"


def open_jsonl(data: str | None, labels: Sequence[str] | None = None, kind: Kind | None = None) -> Task:
    """The task, with everything read and checked at once. `kind` says what labels are, where numbers could be either.

    Raises `SpecError` without a path, `NotFoundError` for one that is not there, and `DataError` with file
    and line for content that cannot be used.
    """
    if data is None:
        raise SpecError(
            "task jsonl needs --data: a JSONL, JSON, CSV, TSV or Parquet file, or a folder with train.jsonl or that "
            "datasets saved"
        )
    if is_text(Path(data)) and not read_bytes(Path(data)).lstrip().startswith((b"{", b"[")):
        raise DataError(f"{data} is a file of text and no rows: to learn all of it, give --task text --data {data}")
    files = find_data_files(Path(data))
    splits, split_note, notes = _read_files(files)
    texts = {name: [row for row in rows if not isinstance(row, RawLabelled)] for name, rows in splits.items()}
    if not any(texts.values()):
        task = _labelled_task(files, splits, labels, kind, notes)
    elif labels is not None or kind not in (None, "generation", "preference"):
        raise DataError(f"{data} holds text to be written; it has no labels")
    else:
        first = next(filter(None, texts.values()))[0]
        said = (AS_TEXT,) if isinstance(first, Document) else ()
        written: Kind = "preference" if isinstance(first, Preference) else "generation"
        metrics = METRICS if isinstance(first, Preference) else ROUGE
        task = Task("jsonl", written, _readers(texts), metrics, notes=(*notes, *said), files=files.paths)
    return replace(task, notes=(split_note, *task.notes), split_note=split_note) if split_note else task


def _read_files(files: DataFiles) -> tuple[dict[str, Rows], str, tuple[str, ...]]:
    """(the rows of every split, all of one shape; how a single file was split; what else is to be said of them)."""
    lines = {name: [line for path in paths for line in read_rows(path)] for name, paths in files.splits.items()}
    shape = shape_of(next(iter(lines.values()))[0])
    rows: dict[str, Rows] = {name: parse_lines(each, shape) for name, each in lines.items()}
    notes = (*files.notes, *ignored_keys([line for each in lines.values() for line in each], shape))
    if WHOLE_FILE not in rows:
        return rows, "", notes
    splits = split_rows(rows[WHOLE_FILE])
    sizes = ", ".join(f"{name} {len(splits[name])}" for name in SPLITS)
    name = files.splits[WHOLE_FILE][0].name
    note = f"{name} is one file of {len(rows[WHOLE_FILE])} objects; by a hash of the inputs it is split into {sizes}"
    return splits | rows, note, notes


def _labelled_task(
    files: DataFiles,
    splits: Mapping[str, Rows],
    labels: Sequence[str] | None,
    kind: Kind | None,
    notes: tuple[str, ...],
) -> Task:
    raw = {name: [row for row in rows if isinstance(row, RawLabelled)] for name, rows in splits.items()}
    labelling = choose_labelling(raw.get(WHOLE_FILE) or next(iter(raw.values())), labels, kind)
    examples = {name: label_rows(rows, labelling) for name, rows in raw.items()}
    metrics = LABEL_METRICS[labelling.kind]
    said = (*notes, *labelling.notes)
    return Task("jsonl", labelling.kind, _readers(examples), metrics, labelling.names, said, files=files.paths)


def _readers(splits: Mapping[str, Examples]) -> dict[str, Callable[[], Examples]]:
    return {name: partial(splits.__getitem__, name) for name in splits}
