"""The user's own data: one file, or a folder with train.jsonl, validation.jsonl and test.jsonl; JSONL or another kind.

Which files are read is said in `data_files`, which kinds in `rows`, and which shapes an object may have in
`json_shapes`. A single file, which may be alone in its folder, is split by its
distinct inputs (everything but the answer): sorted by a hash of the input, the first 5% are the test, the next 5% the
validation, at least one each, and the rest is for training. So the split depends on nothing but the inputs, and
no input is on two sides. The split "all" is the whole file. With fewer than three distinct inputs all of them are
for training.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

from loralab.errors import DataError, SpecError
from loralab.tasks.example import AnyExample, Conversation, Example, Examples, ImageExample
from loralab.tasks.official import WHOLE_FILE
from loralab.tasks.own.files import DataFiles, find_data_files
from loralab.tasks.own.labels import choose_labelling, label_rows
from loralab.tasks.own.shapes import RawLabelled, ignored_keys, parse_lines, shape_of
from loralab.tasks.readers.rows import read_rows
from loralab.tasks.splits import SPLITS
from loralab.tasks.task import ROUGE, Kind, Task

HELD_OUT_SHARE = 0.05

LABEL_METRICS = {
    "classification": ("accuracy", "f1", "matthews"),
    "regression": ("pearson", "spearman"),
}

Rows = Sequence[AnyExample | RawLabelled]


def open_jsonl(data: str | None, labels: Sequence[str] | None = None, kind: Kind | None = None) -> Task:
    """The task, with everything read and checked at once. `kind` says what labels are, where numbers could be either.

    Raises `SpecError` without a path, `NotFoundError` for one that is not there, and `DataError` with file
    and line for content that cannot be used.
    """
    if data is None:
        raise SpecError(
            "task jsonl needs --data: a JSONL, JSON, CSV, TSV or Parquet file, or a folder with train.jsonl"
        )
    files = find_data_files(Path(data))
    splits, notes = _read_files(files)
    texts = {name: [row for row in rows if not isinstance(row, RawLabelled)] for name, rows in splits.items()}
    if not any(texts.values()):
        return _labelled_task(files, splits, labels, kind, notes)
    if labels is not None or kind not in (None, "generation"):
        raise DataError(f"{data} holds text to be written; it has no labels")
    return Task("jsonl", "generation", _readers(texts), ROUGE, notes=notes, files=files.paths)


def input_of(row: AnyExample | RawLabelled) -> str:
    """Everything but the answer, as one string to hash; of a text alone, which is all answer, the text."""
    if isinstance(row, Example):
        return row.prompt or f"\0{row.target}"
    if isinstance(row, Conversation):
        return "\0".join(message.content for message in row.messages[:-1])
    if isinstance(row, ImageExample):
        return row.digest
    return row.text_a if row.text_b is None else f"{row.text_a}\0{row.text_b}"


def split_rows(rows: Rows) -> dict[str, Rows]:
    """The three parts of a single file's rows, each in the file's order."""
    inputs = hashed_order(rows)
    held_out = max(1, round(len(inputs) * HELD_OUT_SHARE)) if len(inputs) >= 3 else 0
    place = dict.fromkeys(inputs, "train")
    place |= dict.fromkeys(inputs[:held_out], "test")
    place |= dict.fromkeys(inputs[held_out : 2 * held_out], "validation")
    return {name: [row for row in rows if place[input_of(row)] == name] for name in SPLITS}


def hashed_order(rows: Rows) -> list[str]:
    """The distinct inputs in an order that depends on nothing but each of them."""
    return sorted({input_of(row) for row in rows}, key=lambda text: sha256(text.encode()).digest())


def _read_files(files: DataFiles) -> tuple[dict[str, Rows], tuple[str, ...]]:
    """The rows of every split, all of one shape, and what is to be said of them."""
    lines = {name: [line for path in paths for line in read_rows(path)] for name, paths in files.splits.items()}
    shape = shape_of(next(iter(lines.values()))[0])
    rows: dict[str, Rows] = {name: parse_lines(each, shape) for name, each in lines.items()}
    notes = (*files.notes, *ignored_keys([line for each in lines.values() for line in each], shape))
    if WHOLE_FILE not in rows:
        return rows, notes
    splits = split_rows(rows[WHOLE_FILE])
    sizes = ", ".join(f"{name} {len(splits[name])}" for name in SPLITS)
    name = files.splits[WHOLE_FILE][0].name
    note = f"{name} is one file of {len(rows[WHOLE_FILE])} objects; by a hash of the inputs it is split into {sizes}"
    return splits | rows, (note, *notes)


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
