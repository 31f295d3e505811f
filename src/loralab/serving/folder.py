"""The folder whose folders are adapters: which names it offers, what of it may be read, and how a change is noticed.

However many adapters it holds, a request costs a few calls of `stat`: a name is one file to look for, and the listing
is read again only after something in the folder has come or gone.
"""

import hashlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from loralab.errors import NotFoundError, SpecError
from loralab.files.names import CONFIG_NAME, RUN_NAME, SIDECAR_NAME, TENSORS_NAME
from loralab.models.processor_names import TOKENIZER_FILES

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
FILES = (CONFIG_NAME, SIDECAR_NAME, TENSORS_NAME, RUN_NAME, *TOKENIZER_FILES)
"""What decides, where it is there, how the adapter is asked and what it answers."""
LARGEST_BYTES = 2**30
"""Of an adapter's file of tensors."""
RESTLESS_NS = 2 * 10**9
"""A file that was changed so lately may change again within what a file system's clock tells apart."""


@dataclass(frozen=True)
class Signature:
    """What changes when the content of an adapter's folder does, without reading it."""

    path: Path
    files: tuple[tuple[str, int, int, int, int], ...]
    """Name, size, number, and times of the last changes to content and entry."""

    @property
    def is_settled(self) -> bool:
        """Whether the next change is sure to show: not where the last one was a moment ago."""
        now = time.time_ns()
        return all(abs(now - at) > RESTLESS_NS for _, _, _, *times in self.files for at in times)


def signature_of(path: Path) -> Signature:
    """Of the files in an adapter's folder that are there now."""
    stats = [(each.name, _stat(each)) for each in _files(path)]
    return Signature(
        path, tuple((name, at.st_size, at.st_ino, at.st_mtime_ns, at.st_ctime_ns) for name, at in stats if at)
    )


def hash_of(path: Path, name: str) -> str:
    """Of everything that decides what the adapter of this name computes. OSError for a file that vanishes."""
    content = hashlib.sha256(name.encode())
    for each in _files(path):
        content.update(f"\n{each.name}\n".encode())
        with each.open("rb") as stream:
            content.update(hashlib.file_digest(stream, "sha256").digest())
    return content.hexdigest()


@dataclass(frozen=True)
class _Listing:
    changed: int
    names: frozenset[str]
    """Of the folders that hold an adapter."""
    others: tuple[str, ...]
    """Of those that do not, or not yet."""


class ServedFolder:
    """A folder of adapters. May be asked by several threads."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listing: _Listing | None = None

    def names(self) -> frozenset[str]:
        """All folders with an adapter in them whose name can be asked for."""
        changed = _stat(self._root)
        if changed is None:
            return frozenset()
        listing = self._listing
        if listing is None or listing.changed != changed.st_mtime_ns:
            listing = self._listed(changed.st_mtime_ns)
        return listing.names | {name for name in listing.others if self.offers(name)}

    def offers(self, name: str) -> bool:
        """Whether a folder of this name holds an adapter."""
        return bool(NAME.fullmatch(name)) and (self._root / name / CONFIG_NAME).is_file()

    def contained(self, path: str | Path) -> Path:
        """The real folder of a path under the served one; nothing else may be read.

        SpecError for what lies, or leads, outside; NotFoundError where no adapter is.
        """
        root = self._root.resolve()
        real = (root / path).resolve()
        if root not in real.parents:
            raise SpecError("the path lies outside of the folder of adapters; copy the adapter there")
        for name in (CONFIG_NAME, TENSORS_NAME):
            if not (real / name).is_file():
                self._listing = None
                raise NotFoundError(f"no adapter lies at {str(real.relative_to(root))!r}: {name} was not found")
        if any(root not in each.resolve().parents for each in _files(real)):
            raise SpecError("a file of the adapter is a link out of the folder of adapters; copy it there")
        tensors = _stat(real / TENSORS_NAME)
        if tensors is not None and tensors.st_size > LARGEST_BYTES:
            raise SpecError(f"the adapter is larger than {LARGEST_BYTES:,} bytes, the most that is served")
        return real

    def _listed(self, changed: int) -> _Listing:
        """Read the folder; remember it where the next change is sure to show."""
        folders = [name for name in os.listdir(self._root) if NAME.fullmatch(name)]
        names = frozenset(name for name in folders if self.offers(name))
        others = tuple(name for name in folders if name not in names and (self._root / name).is_dir())
        listing = _Listing(changed, names, others)
        self._listing = listing if abs(time.time_ns() - changed) > RESTLESS_NS else None
        return listing


def _files(path: Path) -> list[Path]:
    return [each for name in FILES if (each := path / name).is_file()]


def _stat(path: Path) -> os.stat_result | None:
    """None for what is not there."""
    try:
        return path.stat()
    except OSError:
        return None
