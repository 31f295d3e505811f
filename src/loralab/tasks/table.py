"""The tasks by name. A new data set is one file and one row of the table here."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from loralab.errors import NotFoundError, SpecError
from loralab.tasks.dart import open_dart
from loralab.tasks.docstrings import open_docstrings
from loralab.tasks.e2e import open_e2e
from loralab.tasks.glue.table import GLUE
from loralab.tasks.glue.task import open_glue
from loralab.tasks.held_out import Holdout, hold_out
from loralab.tasks.images.task import open_images
from loralab.tasks.own.files import flags_for
from loralab.tasks.own.jsonl import open_jsonl
from loralab.tasks.own.text import open_text
from loralab.tasks.samsum import open_samsum
from loralab.tasks.task import Kind
from loralab.tasks.task import Task as Task
from loralab.tasks.webnlg import open_webnlg
from loralab.tasks.wikisql import open_wikisql

Reader = Callable[[str | None, Sequence[str] | None], Task]

READERS: dict[str, Reader] = {
    "dart": open_dart,
    "docstrings": open_docstrings,
    "e2e": open_e2e,
    **{f"glue/{name}": partial(open_glue, name) for name in GLUE},
    "images": open_images,
    "jsonl": open_jsonl,
    "samsum": open_samsum,
    "text": open_text,
    "webnlg": open_webnlg,
    "wikisql": open_wikisql,
}
"""name -> function of (data path, labels already known)."""


NOTHING_HELD_OUT = Holdout()


def open_task(
    name: str,
    data: str | None = None,
    *,
    labels: Sequence[str] | None = None,
    kind: Kind | None = None,
    held_out: Holdout = NOTHING_HELD_OUT,
) -> Task:
    """The task `name`, with its data at the path `data`, in which `~` is the user's home.

    `labels` are the classes that a trained model already has, in its order; without them the training split
    says. `kind` says what labels are that could be classes or values; of other data it must be what they are. What is
    `held_out` becomes the split `validation`. Raises `SpecError` for an unknown name, `NotFoundError` for a path that
    is not there, and `DataError` for data that cannot be used.
    """
    if name not in READERS:
        raise SpecError(_unknown(name, data))
    task = _open(name, None if data is None else expand_home(data), labels, kind)

    def open_other(path: str) -> Task:
        return _open(name, expand_home(path), task.labels or labels, task.kind)

    return hold_out(task, held_out, open_other)


def _open(name: str, path: str | None, labels: Sequence[str] | None, kind: Kind | None) -> Task:
    if name == "jsonl":
        return open_jsonl(path, labels, kind)
    task = READERS[name](path, labels)
    if kind not in (None, task.kind):
        raise SpecError(f"kind {kind}: task {name} is a {task.kind}; leave it out")
    return task


def _unknown(name: str, data: str | None) -> str:
    """What to say of a task that there is not: the command for one's own data, and the names."""
    path = Path(name).expanduser()
    if data is None and (path.exists() or path.suffix):
        what = "a path" if path.exists() else "looks like one of a file"
        return f"task {name!r} is no task's name but {what}: give {flags_for(name)}"
    near = "".join(f"; did you mean {each}?" for each in get_close_matches(name, READERS, n=1))
    own = f"; your own data: give {flags_for(data)}" if data else ""
    listed = ", ".join(each for each in READERS if not each.startswith("glue/"))
    return f"task {name!r} is not known{near}{own}; the tasks are {listed}, and glue/{', glue/'.join(GLUE)}"


task = open_task
"""The name that Python users know it by."""


def expand_home(path: str) -> str:
    """A path with `~` or `~name` written out. Raises `NotFoundError` for a user that there is not."""
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise NotFoundError(f"{path}: {error}; write the path out") from error
