"""Which adapters there are by name, and which content is behind a name at this moment.

An adapter is a folder under the served one. Its content is known by a hash: a folder that changes is a new version,
which new requests get while those that run finish on the old one. The pairs of so many versions are kept in memory,
those used last.
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from transformers import PreTrainedModel

from loralab.errors import NotFoundError, SpecError, UnknownAdapterError
from loralab.files.names import CONFIG_NAME, SIDECAR_NAME, TENSORS_NAME
from loralab.serving.engine.bank import Pairs
from loralab.serving.engine.trial import modules_with_rows
from loralab.serving.pairs import read_pairs

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LARGEST_BYTES = 2**30
"""Of an adapter's file of tensors."""
Signature = tuple[tuple[str, int, int, int], ...]
"""Name, size, time of the last change and number of every file that counts: what changes when the content does."""


@dataclass(frozen=True, eq=False)
class Version:
    """An adapter's content, ready to be served."""

    name: str
    key: str
    """Hash of the content."""
    pairs: Pairs

    @property
    def rank(self) -> int:
        """The largest."""
        return max(A.shape[0] for A, _ in self.pairs.values())

    @property
    def memory_bytes(self) -> int:
        """What its pairs take."""
        return sum(A.nbytes + B.nbytes for A, B in self.pairs.values())


class Registry:
    """The adapters of one folder, for one model. May be asked by several threads."""

    def __init__(
        self,
        model: PreTrainedModel,
        folder: Path | None,
        in_memory: int = 64,
        evicted: Callable[[str], None] | None = None,
    ) -> None:
        self._model, self._folder, self._in_memory = model, folder, in_memory
        self._with_rows = modules_with_rows(model)
        self._evicted = evicted or (lambda key: None)
        self._paths: dict[str, Path] = {}
        self._hidden: set[str] = set()
        self._versions: OrderedDict[str, Version] = OrderedDict()
        self._signed: dict[str, tuple[Signature, str]] = {}
        self._lock = Lock()

    def names(self) -> list[str]:
        """What can be asked for, sorted."""
        found = [] if self._folder is None else [each.parent.name for each in self._folder.glob(f"*/{CONFIG_NAME}")]
        return sorted({name for name in found if NAME.fullmatch(name)} - self._hidden | self._paths.keys())

    def version(self, name: str) -> Version:
        """The content behind a name now. UnknownAdapterError where there is none; what `read_pairs` raises."""
        with self._lock:
            path = self._path_of(name)
            signature = _signature(path)
            signed = self._signed.get(name)
            key = signed[1] if signed is not None and signed[0] == signature else _hash(path, name)
            version = self._versions.get(key)
            if version is None:
                version = Version(name, key, read_pairs(path, self._model, self._with_rows))
            self._keep(version)
            self._signed[name] = (signature, key)
            return version

    def add(self, name: str, path: str) -> Version:
        """Offer a folder under a name of its own. SpecError for a name or place that is not allowed."""
        if not NAME.fullmatch(name):
            raise SpecError(f"lora_name {name!r}: letters, digits, '.', '_' and '-' are allowed, 128 at most")
        folder = self._contained(path)
        before = self._paths.get(name), name in self._hidden
        self._paths[name] = folder
        self._hidden.discard(name)
        try:
            return self.version(name)
        except BaseException:
            self._paths.pop(name)
            if before[0] is not None:
                self._paths[name] = before[0]
            if before[1]:
                self._hidden.add(name)
            raise

    def remove(self, name: str) -> None:
        """Offer a name no more, and free what it holds. UnknownAdapterError where there is none."""
        with self._lock:
            self._path_of(name)
            self._paths.pop(name, None)
            self._hidden.add(name)
            self._drop([key for key, version in self._versions.items() if version.name == name])

    def held(self) -> dict[str, str]:
        """The names whose content is in memory, and the keys of that content."""
        return {version.name: key for key, version in list(self._versions.items())}

    def folder_of(self, name: str) -> Path:
        """The folder behind a name. Raises what `version` does for a name without one."""
        return self._path_of(name)

    @property
    def memory_bytes(self) -> int:
        """What the pairs in memory take."""
        return sum(version.memory_bytes for version in list(self._versions.values()))

    def _path_of(self, name: str) -> Path:
        if name in self._paths:
            return self._contained(self._paths[name])
        if name not in self.names():
            raise UnknownAdapterError(f"no adapter is called {name!r} here")
        assert self._folder is not None
        return self._contained(name)

    def _contained(self, path: str | Path) -> Path:
        """The real folder of a path under the served one; nothing else may be read."""
        if self._folder is None:
            raise SpecError("this server was started without --adapters: it serves the base alone")
        root = self._folder.resolve()
        real = (root / path).resolve()
        if root not in real.parents:
            raise SpecError("the path lies outside of the folder of adapters; copy the adapter there")
        for name in (CONFIG_NAME, TENSORS_NAME):
            if not (real / name).is_file():
                raise NotFoundError(f"no adapter lies at {str(real.relative_to(root))!r}: {name} was not found")
        if any(root not in each.resolve().parents for each in _files(real)):
            raise SpecError("a file of the adapter is a link out of the folder of adapters; copy it there")
        if (real / TENSORS_NAME).stat().st_size > LARGEST_BYTES:
            raise SpecError(f"the adapter is larger than {LARGEST_BYTES:,} bytes, the most that is served")
        return real

    def _keep(self, version: Version) -> None:
        """As the one used last; the ones not used for longest, and older versions of its name, are let go."""
        outdated = [key for key, each in self._versions.items() if each.name == version.name and key != version.key]
        self._drop(outdated)
        self._versions[version.key] = version
        self._versions.move_to_end(version.key)
        self._drop(list(self._versions)[: -self._in_memory])

    def _drop(self, keys: list[str]) -> None:
        for key in keys:
            self._versions.pop(key)
            self._evicted(key)


def _files(path: Path) -> list[Path]:
    return [each for name in (CONFIG_NAME, SIDECAR_NAME, TENSORS_NAME) if (each := path / name).is_file()]


def _signature(path: Path) -> Signature:
    stats = [(each.name, each.stat()) for each in _files(path)]
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats)


def _hash(path: Path, name: str) -> str:
    """Of everything that decides what the adapter of this name computes."""
    content = hashlib.sha256(name.encode())
    for each in _files(path):
        content.update(each.name.encode())
        with each.open("rb") as stream:
            content.update(hashlib.file_digest(stream, "sha256").digest())
    return content.hexdigest()
