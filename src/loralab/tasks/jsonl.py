"""The user's own data: one JSON or JSONL file, or a folder with train.jsonl, validation.jsonl and test.jsonl.

A file holds one object a line, or one list of objects. A single file, which may be alone in its folder, is split by its
distinct inputs (everything but the answer): sorted by a hash of the input, the first 5% are the test, the next 5% the
validation, at least one each, and the rest is for training. So the split depends on nothing but the inputs, and
no input is on two sides. The split "all" is the whole file. With fewer than three distinct inputs all of them are
for training.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

from loralab.errors import DataError, NotFoundError, SpecError
from loralab.tasks.definition import ROUGE, Task
from loralab.tasks.example import AnyExample, Conversation, Example, Examples, ImageExample
from loralab.tasks.json_labels import find_labelling, known_labelling, label_rows
from loralab.tasks.json_lines import read_lines
from loralab.tasks.json_shapes import RawLabelled, parse_lines, shape_of

SPLITS = ("train", "validation", "test")
HELD_OUT_SHARE = 0.05
ENDINGS = (".jsonl", ".json")

LABEL_METRICS = {
    "classification": ("accuracy", "f1", "matthews"),
    "regression": ("pearson", "spearman"),
}

Rows = Sequence[AnyExample | RawLabelled]


def open_jsonl(data: str | None, labels: Sequence[str] | None = None) -> Task:
    """The task, with everything read and checked at once.

    Raises `SpecError` without a path, `NotFoundError` for one that is not there, and `DataError` with file
    and line for content that cannot be used.
    """
    if data is None:
        raise SpecError("task jsonl needs --data: a JSONL or JSON file, or a folder with train.jsonl")
    path = Path(data)
    files = _split_files(path) if path.is_dir() else {}
    splits, notes = (_read_files(files), ()) if files else _read_file(_only_file(path))
    texts = {name: [row for row in rows if not isinstance(row, RawLabelled)] for name, rows in splits.items()}
    if not any(texts.values()):
        return _labelled_task(splits, labels, notes)
    if labels is not None:
        raise DataError(f"{path} holds text to be written; it has no labels")
    return Task("jsonl", "generation", _readers(texts), ROUGE, notes=notes)


def input_of(row: AnyExample | RawLabelled) -> str:
    """Everything but the answer, as one string to hash."""
    if isinstance(row, Example):
        return row.prompt
    if isinstance(row, Conversation):
        return "\0".join(message.content for message in row.messages[:-1])
    if isinstance(row, ImageExample):
        return row.digest
    return row.text_a if row.text_b is None else f"{row.text_a}\0{row.text_b}"


def split_rows(rows: Rows) -> dict[str, Rows]:
    """The three parts of a single file's rows, each in the file's order."""
    inputs = sorted({input_of(row) for row in rows}, key=lambda text: sha256(text.encode()).digest())
    held_out = max(1, round(len(inputs) * HELD_OUT_SHARE)) if len(inputs) >= 3 else 0
    place = dict.fromkeys(inputs, "train")
    place |= dict.fromkeys(inputs[:held_out], "test")
    place |= dict.fromkeys(inputs[held_out : 2 * held_out], "validation")
    return {name: [row for row in rows if place[input_of(row)] == name] for name in SPLITS}


def _read_file(path: Path) -> tuple[dict[str, Rows], tuple[str, ...]]:
    lines = read_lines(path)
    rows = parse_lines(lines, shape_of(lines[0]))
    splits = split_rows(rows)
    sizes = ", ".join(f"{name} {len(splits[name])}" for name in SPLITS)
    note = f"{path.name} is one file of {len(rows)} objects; by a hash of the inputs it is split into {sizes}"
    return splits | {"all": rows}, (note,)


def _split_files(folder: Path) -> dict[str, Path]:
    """The files that are named for a split; none at all where there is none for training."""
    files = {name: [folder / f"{name}{ending}" for ending in ENDINGS] for name in SPLITS}
    found = {name: [path for path in paths if path.is_file()] for name, paths in files.items()}
    for paths in found.values():
        if len(paths) > 1:
            raise SpecError(f"{folder} has both {paths[0].name} and {paths[1].name}; keep one of them there")
    return {name: paths[0] for name, paths in found.items() if paths} if found["train"] else {}


def _only_file(path: Path) -> Path:
    """The path itself, or the one data file in it if it is a folder."""
    if not path.is_dir():
        return path
    files = sorted(each for each in path.iterdir() if each.suffix in ENDINGS and each.is_file())
    if len(files) == 1:
        return files[0]
    raise NotFoundError(
        f"{path} has no train.jsonl, and {len(files)} other JSON or JSONL files; put train.jsonl there, and "
        "validation.jsonl and test.jsonl if you have them, or give a single file"
    )


def _read_files(files: Mapping[str, Path]) -> dict[str, Rows]:
    lines = {name: read_lines(path) for name, path in files.items()}
    shape = shape_of(lines["train"][0])
    return {name: parse_lines(each, shape) for name, each in lines.items()}


def _labelled_task(splits: Mapping[str, Rows], labels: Sequence[str] | None, notes: tuple[str, ...]) -> Task:
    raw = {name: [row for row in rows if isinstance(row, RawLabelled)] for name, rows in splits.items()}
    labelling = find_labelling(raw.get("all", raw["train"])) if labels is None else known_labelling(labels)
    examples = {name: label_rows(rows, labelling) for name, rows in raw.items()}
    metrics = LABEL_METRICS[labelling.kind]
    return Task("jsonl", labelling.kind, _readers(examples), metrics, labelling.names, notes)


def _readers(splits: Mapping[str, Examples]) -> dict[str, Callable[[], Examples]]:
    return {name: partial(splits.__getitem__, name) for name in splits}
