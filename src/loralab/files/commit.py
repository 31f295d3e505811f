"""Several entries of a folder that change together.

Where the system can let two folders change places (`exchange.py`), a second folder is made, of hard links to all that
stays and of what is new, and takes the place of the first: every reader finds the old one or the new one.

Elsewhere (macOS, Windows, NFS, a mount point, the current folder, a folder that a run is writing into) the changes are
written down in the folder itself, whole, and then made one after another. One rename writes them down: before it
nothing has changed, and after it whoever opens the folder with loralab makes the rest of them (`settle`). A reader
that knows nothing of this finds the marker (of an adapter its configuration) missing meanwhile, and refuses the folder.
"""

import json
import os
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loralab.errors import AdapterFileError, OutputError
from loralab.files.drafts import COMMIT_NAME, draft_folder, flush_file, flush_folder, flush_tree, is_ours
from loralab.files.exchange import exchange
from loralab.files.locks import is_at, is_held, wait_for_lock

NEW, OLD, PLAN = "new", "old", "plan.json"
_MOST_LINKS = 10_000


def make_changes(draft: Path, folder: Path, removed: Collection[str], marker: str | None, alone: bool) -> None:
    """Let all that is in `draft/new` take its place in `folder`, and take out the entries called as in `removed`.

    The draft lies in the folder. With `alone` nobody but us is at work there, so that the folder itself may be
    exchanged. Raises OSError; the folder is then as it was.
    """
    flush_tree(draft)
    replaced = [*removed, *(each.name for each in (draft / NEW).iterdir())]
    names = {each.name for each in folder.iterdir() if not is_ours(each.name)}
    worth_it = not names or not names.isdisjoint(replaced)
    if alone and worth_it and _exchanged(draft / NEW, folder, names.difference(replaced)):
        return
    settle(folder)
    _write_down(draft, folder, removed, marker)
    _make(folder / COMMIT_NAME, folder)  # it is ours: we hold the lock of the draft that it was


def settle(folder: Path) -> None:
    """Make the rest of the changes that a killed process left half made; nothing where there are none.

    Raises OutputError where the folder cannot be written, AdapterFileError for a plan that is not one of ours.
    """
    commit = folder / COMMIT_NAME
    if not commit.is_dir() or commit.is_symlink():
        return
    try:
        with _held(commit) as there:
            if there:
                _make(commit, folder)
    except OSError as problem:
        if isinstance(problem, OutputError):
            raise
        raise OutputError(
            f"{folder} was being changed when its writer was stopped, and the rest cannot be done: "
            f"{problem.strerror or problem}. Make the folder writable and open it again"
        ) from problem


# -- by exchanging the folder -----------------------------------------------------------------------------------------


def can_be_exchanged(folder: Path) -> bool:
    """Whether the folder's own place in its parent may change: not where a run, or this process, stands in it."""
    try:
        here = Path.cwd().resolve()
    except OSError:
        return False
    return not is_held(folder) and folder != here and folder not in here.parents


def _exchanged(new: Path, folder: Path, kept: Collection[str]) -> bool:
    """Whether the folder could be exchanged for one with the new entries; where not, nothing has changed."""
    try:
        with draft_folder(folder.parent, folder.name) as whole:
            left = _MOST_LINKS
            for name in sorted(kept):
                left = _linked(folder / name, whole / name, left)
            for each in sorted(new.iterdir()):
                left = _linked(each, whole / each.name, left)
            _as_owned(folder, whole)
            flush_tree(whole)
            done = exchange(whole, folder)
            if done:
                flush_folder(folder.parent)
            return done
    except OSError:
        return False


def _linked(source: Path, target: Path, left: int) -> int:
    """A hard link to a file, a folder of them, a copy of a link; how many more there may be. Raises OSError."""
    if left <= 0:
        raise OSError("more than is worth linking")
    if source.is_symlink():
        target.symlink_to(source.readlink())
    elif source.is_dir():
        target.mkdir()
        for each in source.iterdir():
            left = _linked(each, target / each.name, left)
        _as_owned(source, target)
    elif source.is_file():
        os.link(source, target)
    else:
        raise OSError(f"{source} is neither a file nor a folder")
    return left - 1


def _as_owned(source: Path, target: Path) -> None:
    """Mode, times and, where we may, owner of a folder."""
    shutil.copystat(source, target)
    if sys.platform != "win32":
        owner = source.stat()
        if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(target, owner.st_uid, owner.st_gid)


# -- by writing it down -----------------------------------------------------------------------------------------------


def _write_down(draft: Path, folder: Path, removed: Collection[str], marker: str | None) -> None:
    gone = sorted(set(removed).difference(each.name for each in (draft / NEW).iterdir()))
    (draft / PLAN).write_text(json.dumps({"removed": gone, "marker": marker}), encoding="utf-8")
    flush_file(draft / PLAN)
    flush_folder(draft)
    draft.rename(folder / COMMIT_NAME)
    flush_folder(folder)


def _make(commit: Path, folder: Path) -> None:
    """Make what is left of the changes; done twice it comes to the same. The marker goes first and comes last."""
    removed, marker = _plan(commit)
    new = commit / NEW
    (commit / OLD).mkdir(exist_ok=True)
    waiting = sorted(each.name for each in new.iterdir()) if new.is_dir() and not new.is_symlink() else []
    for name in dict.fromkeys([*([marker] if marker in waiting else []), *removed]):
        _set_aside(folder / name, commit)
    for name in sorted(waiting, key=lambda each: each == marker):
        _set_aside(folder / name, commit)
        (new / name).rename(folder / name)
    flush_folder(folder)
    shutil.rmtree(commit)


def _set_aside(path: Path, commit: Path) -> None:
    """Out of the way in one step, also where it is a folder."""
    with suppress(FileNotFoundError):
        path.rename(_free(commit / OLD, path.name))


def _free(folder: Path, name: str) -> Path:
    number = 0
    while os.path.lexists(folder / f"{number}-{name}"[:200]):
        number += 1
    return folder / f"{number}-{name}"[:200]


def _plan(commit: Path) -> tuple[list[str], str | None]:
    try:
        content = json.loads((commit / PLAN).read_text(encoding="utf-8"))
        removed, marker = list(content["removed"]), content["marker"]
    except FileNotFoundError:
        return [], None  # all was done, and the folder of the changes was being removed
    except (ValueError, KeyError, TypeError) as problem:
        raise AdapterFileError(f"{commit} is not what loralab writes there; remove it") from problem
    names = [*removed, *([] if marker is None else [marker])]
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise AdapterFileError(f"{commit} names files outside of its folder; remove it")
    return removed, marker


@contextmanager
def _held(commit: Path) -> Iterator[bool]:
    """Whether the changes are still there once nobody else makes them, and then they are ours to make."""
    if sys.platform == "win32":
        yield True
        return
    try:
        descriptor = os.open(commit, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield False
        return
    try:
        wait_for_lock(descriptor)
        yield is_at(descriptor, commit)
    finally:
        os.close(descriptor)
