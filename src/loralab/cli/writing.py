"""Where a verb writes: a place where nothing is, or with --overwrite one that an earlier call of its kind filled.

What is replaced stays until the new one is whole, and what no verb of the kind wrote is left alone.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

from loralab.errors import OutputError, some
from loralab.files.drafts import is_ours, is_vacant
from loralab.files.names import CONFIG_NAME, OLD_TENSORS_NAME, PLAIN_NAME, RUN_NAME, SAVED
from loralab.files.whole import replacing
from loralab.models.processor_names import IMAGE_FILES, MORE_TEMPLATES, TOKENIZER_FILES

PROCESSOR = (*TOKENIZER_FILES, *IMAGE_FILES, MORE_TEMPLATES)
WEIGHTS = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json")
WRITTEN = "written"
"""The key under which a mark lists the names beside it."""
ALONE = "so --overwrite leaves it alone"


class Writes(Protocol):
    """What a verb writes, and how an earlier one of the kind is recognised."""

    def occupied(self, place: Path) -> list[Path]:
        """What is at the place that would be written over."""

    def refuse_other(self, place: Path) -> None:
        """Raise OutputError for what is there and of another kind."""

    def replaced(self, place: Path) -> AbstractContextManager[None]:
        """Within this block what is there may be replaced."""


@contextmanager
def writing(out: str | None, kind: Writes, *, overwrite: bool, reads: Sequence[str | None] = ()) -> Iterator[None]:
    """Within this block the verb writes at `out`, if it was told where, and replaces what is there if that was asked.

    Raises OutputError, before anything is read or computed, for a place that holds something, and with `overwrite` for
    what is not of the kind, and for one that holds what the verb `reads`.
    """
    occupied = [] if out is None else kind.occupied(Path(out))
    if out is None or not occupied:
        yield
        return
    if not overwrite:
        exist = "exist" if len(occupied) > 1 else "exists"
        raise OutputError(
            f"{some(map(str, occupied), 5)} {exist} already; choose another place, or give --overwrite to replace "
            f"{'them' if len(occupied) > 1 else 'it'}"
        )
    kind.refuse_other(Path(out))
    for each in occupied:
        inside = [read for read in reads if read is not None and _is_within(Path(read), each)]
        if inside:
            raise OutputError(f"{each} holds what is read ({', '.join(inside)}), so it is not replaced; choose another")
    with kind.replaced(Path(out)):
        yield


@dataclass(frozen=True)
class Product:
    """A folder of its own: how such a one is recognised, and what may be in it."""

    what: str
    mark: str
    """The file that tells it; it may list names under `written` that count as well."""
    names: Sequence[str]
    """Patterns of what may be in it."""

    def occupied(self, place: Path) -> list[Path]:
        """The place, unless nothing is there but an empty folder."""
        return [place] if _is_there(place) and not (place.is_dir() and is_vacant(place)) else []

    def refuse_other(self, place: Path) -> None:
        """Raise OutputError for anything but a folder of this kind with nothing else in it."""
        if not place.is_dir() or place.is_symlink() or not (place / self.mark).is_file():
            raise OutputError(f"{place} is not {self.what} of loralab's, {ALONE}; remove it yourself")
        if foreign := self._foreign(place):
            raise OutputError(
                f"{place} holds more than {self.what}: {some(foreign, 5)}; --overwrite leaves it alone. Move them, or "
                "choose another place"
            )

    def replaced(self, place: Path) -> AbstractContextManager[None]:
        """As a whole."""
        return replacing(place)

    def _foreign(self, folder: Path) -> list[str]:
        """Names in a folder that no verb of this kind wrote."""
        known = [self.mark, *self.names, *self._listed(folder)]
        names = (each.name for each in folder.iterdir() if not is_ours(each.name))
        return sorted(name for name in names if not any(fnmatch(name, pattern) for pattern in known))

    def _listed(self, folder: Path) -> list[str]:
        try:
            content = json.loads((folder / self.mark).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        listed = content.get(WRITTEN, []) if isinstance(content, dict) else []
        return [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []


@dataclass(frozen=True)
class LoneFile:
    """A file, whose first 16 bytes say whether it is one of the kind."""

    what: str
    is_such: Callable[[bytes], bool]

    def occupied(self, place: Path) -> list[Path]:
        """The place, if anything is there."""
        return [place] if _is_there(place) else []

    def refuse_other(self, place: Path) -> None:
        """Raise OutputError for what is no file, or begins as another kind does."""
        if not place.is_file() or place.is_symlink() or not self.is_such(_head(place)):
            raise OutputError(f"{place} is not {self.what}, {ALONE}; remove it yourself")

    def replaced(self, place: Path) -> AbstractContextManager[None]:
        """As a whole."""
        return replacing(place)


@dataclass(frozen=True)
class FilesAmong:
    """Files of these names, or patterns of names, in a folder that may hold anything else."""

    names: Sequence[str]

    def occupied(self, place: Path) -> list[Path]:
        """Those of the names that are there; the place itself, where it is no folder."""
        if not place.is_dir():
            return [place] if _is_there(place) else []
        return sorted({path for name in self.names for path in place.glob(name)})

    def refuse_other(self, place: Path) -> None:
        """Raise OutputError for what has such a name and is no file, or is a link to one that is elsewhere."""
        for each in self.occupied(place):
            if not each.is_file() or each.is_symlink() or each == place:
                raise OutputError(f"{each} is not what this verb writes, {ALONE}; remove it yourself")

    @contextmanager
    def replaced(self, place: Path) -> Iterator[None]:
        """One by one; what the new call did not write again is taken away, for it would be of another one."""
        before = {each: _version(each) for each in self.occupied(place)}
        yield
        for each, version in before.items():
            if _version(each) == version:
                each.unlink()


ADAPTER = Product("an adapter", CONFIG_NAME, (*SAVED, OLD_TENSORS_NAME, PLAIN_NAME, RUN_NAME, "README.md", *PROCESSOR))
MERGED = Product("a merged model", "loralab_merge.json", (*WEIGHTS, *PROCESSOR))
PRUNED = Product("a pruned model", "prune.json", ("prune.png", *WEIGHTS, *PROCESSOR))
LINEARIZED = Product("a linearized model", "linearize.json", ("linearize.png", "remaining", "affine_blocks.*"))
COMPARISON = Product(
    "a comparison", "comparison.json", ("cells", "tuning", "results.json", "table.md", "lock", "*.png", ".loralab-*")
)
TUNING = Product(
    "a tuning", "tune.json", ("trials", "best", "again", "results.json", "table.md", "lock", "*.png", ".loralab-*")
)
PAGE = LoneFile("a page", lambda head: head.lower().startswith(b"<!doctype html"))
TEXT = LoneFile("a text", lambda head: b"\0" not in head)


def _is_there(place: Path) -> bool:
    return place.exists() or place.is_symlink()


def _version(file: Path) -> tuple[int, int]:
    """What is another after the file was written again."""
    about = file.stat()
    return about.st_ino, about.st_mtime_ns


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(16)


def _is_within(path: Path, place: Path) -> bool:
    whole, inner = place.resolve(), path.expanduser().resolve()
    return path.exists() and (inner == whole or whole in inner.parents)
