"""The tasks by name. A new data set is one file and one row of the table here."""

from collections.abc import Callable, Sequence

from loralab.errors import SpecError
from loralab.tasks.definition import Task as Task
from loralab.tasks.docstrings import open_docstrings
from loralab.tasks.e2e import open_e2e
from loralab.tasks.jsonl import open_jsonl

Reader = Callable[[str | None, Sequence[str] | None], Task]

READERS: dict[str, Reader] = {
    "docstrings": open_docstrings,
    "e2e": open_e2e,
    "jsonl": open_jsonl,
}
"""name -> function of (data path, labels already known)."""


def open_task(name: str, data: str | None = None, *, labels: Sequence[str] | None = None) -> Task:
    """The task `name`, with its data at the path `data`.

    `labels` are the classes that a trained model already has, in its order; without them the training split
    says. Raises `SpecError` for an unknown name, `NotFoundError` for a path that is not there, and
    `DataError` for data that cannot be used.
    """
    if name not in READERS:
        raise SpecError(f"task {name!r} is not known; choose {', '.join(READERS)}")
    return READERS[name](data, labels)
