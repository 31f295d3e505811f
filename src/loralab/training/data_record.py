"""What a run's data were, for run.json: so that a resumed run goes on with the same, or says what changed.

Files are known by the SHA-256 of their bytes. Data that come from no file (the Hub's, a task's own) or from as many as
there are images, by the SHA-256 of the examples themselves.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from loralab.errors import DataError
from loralab.tasks.example import AnyExample
from loralab.tasks.table import Task, expand_home

Record = dict[str, dict[str, str]]
"""`files`: a file's path from that of the data -> its hash; `examples`: a split -> the hash of its examples."""


def record_data(task: Task, data: str | None, splits: Sequence[str]) -> Record:
    """The hashes of what the task is read from; of examples, those of the splits that the run reads."""
    root = Path(expand_home(data or "."))
    base = root if root.is_dir() else root.parent
    files = {os.path.relpath(path, base).replace(os.sep, "/"): _hash_file(path) for path in task.files}
    if files and task.inputs == "text":
        return {"files": files}
    examples = {split: hash_examples(task.examples(split)) for split in splits}
    return {"files": files, "examples": examples}


def check_unchanged(before: Mapping[str, Any], now: Record, folder: Path) -> tuple[str, ...]:
    """Sentences for the log about a resumed run's data; raises `DataError` naming what is not as it was.

    `before` is the run.json of the run that goes on; one that an earlier version wrote says nothing of its data.
    """
    if "data" not in before:
        return ("this run was begun by a version that did not record its data: whether they changed is not known",)
    changed = [
        f"{name} {_what_happened(old.get(name), new.get(name))}"
        for part, new in now.items()
        for old in [before["data"].get(part, {})]
        for name in sorted(old.keys() | new)
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise DataError(
            f"the run in {folder} cannot be resumed on other data than it began with: {'; '.join(changed)}. Bring the "
            "data back as they were, or begin anew with another --out or --overwrite"
        )
    return ()


def _what_happened(old: str | None, new: str | None) -> str:
    if old is None:
        return "was not among the data"
    return "is not among the data any more" if new is None else "has changed"


def hash_examples(examples: Sequence[AnyExample]) -> str:
    """The SHA-256 of examples in their order. What a field has by default, and where an image lies, play no part."""
    whole = sha256()
    for example in examples:
        values = {name: value for name, value in asdict(example).items() if not isinstance(value, Path)}
        plain = {name: value for name, value in values.items() if value not in (None, "", (), 1.0) or name == "label"}
        whole.update(json.dumps(plain, sort_keys=True).encode() + b"\n")
    return whole.hexdigest()


def _hash_file(path: Path) -> str:
    whole = sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            whole.update(piece)
    return whole.hexdigest()
