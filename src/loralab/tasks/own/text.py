"""The user's own texts, of which every token is learned: files of text, or rows of `text` alone.

A file is a document, wherever its blank lines are. Of a folder all files of text below it are read, those in a folder
or file named for a split for that split; without such names they are split by a hash as rows are, and a single document
by its lines: the last 5% of it are the test, the 5% before them the validation. Rows of a text alone (JSONL, CSV,
Parquet, …) are read as the task `jsonl` reads them, a document each.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from loralab.errors import DataError, NotFoundError, SpecError
from loralab.tasks.example import Document
from loralab.tasks.official import WHOLE_FILE, refuse_labels
from loralab.tasks.own.files import ENDINGS, has_rows, is_text, text_files
from loralab.tasks.own.inputs import Rows, split_rows
from loralab.tasks.own.jsonl import AS_TEXT, open_jsonl
from loralab.tasks.readers.rows import ending_of
from loralab.tasks.readers.unpacked import decode_utf8, read_bytes
from loralab.tasks.splits import SPLIT_NAMES, SPLITS
from loralab.tasks.task import ROUGE, Task


def open_text(data: str | None, labels: Sequence[str] | None = None) -> Task:
    """The task, with everything read at once.

    Raises `SpecError` without a path, `NotFoundError` for one that is not there or a folder without texts, and
    `DataError` for a blank text, one that is not UTF-8, or rows of another shape.
    """
    refuse_labels("text", labels)
    if data is None:
        raise SpecError("task text needs --data: a file of text, a folder of such files, or rows of text alone")
    path = Path(data)
    if is_text(path) or (path.is_file() and ending_of(path) is None):
        return _task([path], {WHOLE_FILE: [path]})
    if not path.is_dir() or has_rows(path):
        return _of_rows(data)
    files = text_files(path)
    if not files:
        raise NotFoundError(f"{path} holds no files of text ({', '.join(ENDINGS)}) and no rows; put some there")
    return _task(files, _by_split(path, files))


def _of_rows(data: str) -> Task:
    task = open_jsonl(data)
    first = next(rows[0] for rows in (read() for read in task.splits.values()) if rows)
    if not isinstance(first, Document):
        raise DataError(f"{data} holds rows with more than a text; give --task jsonl, or rows of text alone")
    return replace(task, name="text", notes=tuple(note for note in task.notes if note != AS_TEXT))


def _by_split(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of each split by the names directly below the folder; all as one where none is named for a split.

    Raises `DataError` where some are and others are not.
    """
    named: dict[str, list[Path]] = {}
    for path in files:
        top = path.relative_to(folder).parts[0]
        named.setdefault(SPLIT_NAMES.get(top.split(".")[0].lower(), ""), []).append(path)
    if named.keys() == {""}:
        return {WHOLE_FILE: list(files)}
    if "" in named:
        others = ", ".join(path.name for path in named[""][:3])
        raise DataError(f"{folder} has files for splits and others beside them ({others}); move these into train")
    return {name: named[name] for name in SPLITS if name in named}


def _task(files: Sequence[Path], paths: dict[str, list[Path]]) -> Task:
    rows: dict[str, Rows] = {name: [_document(path) for path in each] for name, each in paths.items()}
    note = ""
    if WHOLE_FILE in rows:
        parts = {name: part for name, part in split_rows(rows[WHOLE_FILE]).items() if part}
        note = _note(rows[WHOLE_FILE], parts)
        rows = parts | rows
    splits = {
        name: partial(tuple, [each for each in part if isinstance(each, Document)]) for name, part in rows.items()
    }
    notes = (note,) if note else ()
    return Task("text", "generation", splits, ROUGE, notes=notes, split_note=note, files=tuple(files))


def _note(whole: Rows, parts: dict[str, Rows]) -> str:
    if len(whole) > 1:
        sizes = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
        return f"{len(whole)} documents, a file each; by a hash of the texts they are split into {sizes}"
    if len(parts) == 1:
        return "one document, too short to hold a part of it out"
    return "one document: its last 5% are the test, the 5% before them the validation"


def _document(path: Path) -> Document:
    text = decode_utf8(str(path), read_bytes(path)).replace("\r\n", "\n")
    if not text.strip():
        raise DataError(f"{path} is blank; there is nothing to learn from it: remove it")
    return Document(text)
