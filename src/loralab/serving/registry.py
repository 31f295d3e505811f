"""Which adapters there are by name, and which content is behind a name at this moment.

An adapter is a folder under the served one. Its content is known by a hash: a folder that changes is a new version,
which new requests get while those that run finish on the old one. The pairs of so many versions are kept in memory,
those used last.

Disk is read in threads of the registry's own, outside of its lock: whoever asks for an adapter that is not in memory
waits for it, and nobody else does. Those who ask for the same content wait for one reading of it.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loralab.errors import AdapterFileError, LoralabError, NotFoundError, SpecError, UnknownAdapterError
from loralab.files.names import CONFIG_NAME
from loralab.files.whole import read_json
from loralab.formats.tokenizer import tokenizer_beside
from loralab.machine import let_threads_go
from loralab.serving.classifying.head import Bodies, Head, read_classifier
from loralab.serving.engine.bank import Pairs
from loralab.serving.engine.trial import modules_with_rows
from loralab.serving.folder import NAME, ServedFolder, Signature, hash_of, signature_of
from loralab.serving.pairs import read_pairs

LOADERS = 8
"""Adapters that are read from disk at once."""
ATTEMPTS = 3
"""To read a folder that changes while it is read."""
REFUSED_SECONDS = 5.0
"""For so long a folder that could not be read is not read again, unless it changes."""
log = logging.getLogger(__name__)


@dataclass(eq=False)
class Version:
    """An adapter's content, ready to be served."""

    name: str
    key: str
    """Hash of the content."""
    pairs: Pairs
    head: Head | None = None
    """Of a classifier's adapter."""
    tokenizer: PreTrainedTokenizerBase | None = None
    """Its own; None where it is asked as the base is."""
    retired: bool = False
    """Whether the registry has let go of it: it lives as long as requests that have it."""

    @property
    def rank(self) -> int:
        """The largest."""
        return max((A.shape[0] for A, _ in self.pairs.values()), default=0)

    @property
    def memory_bytes(self) -> int:
        """What its pairs and its head take."""
        head = 0 if self.head is None else self.head.memory_bytes
        return head + sum(A.nbytes + B.nbytes for A, B in self.pairs.values())


Content = tuple[Pairs, Head | None, PreTrainedTokenizerBase | None]
Reader = Callable[[Path], Content]
"""How what an adapter's folder holds is read. Raises what `read_pairs`, `read_classifier` and `tokenizer_beside` do."""


def writers_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> Reader:
    """For a model that writes text; without a tokenizer, of token ids alone."""
    with_rows = modules_with_rows(model)

    def read(path: Path) -> Content:
        refuse_kind(path, "SEQ_CLS", "classifies; serve it with --task classification, and ask /v1/classify")
        own = None if tokenizer is None else tokenizer_beside(path, tokenizer, model)
        return read_pairs(path, model, with_rows), None, own

    return read


def classifiers_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Reader:
    """For a classifier."""
    with_rows, bodies = modules_with_rows(model), Bodies(model)

    def read(path: Path) -> Content:
        refuse_kind(path, "CAUSAL_LM", "writes text; serve it beside a model that does, and ask /v1/completions")
        return *read_classifier(path, bodies, with_rows), tokenizer_beside(path, tokenizer, model)

    return read


def refuse_kind(path: Path, kind: str, what: str) -> None:
    """SpecError for an adapter whose configuration says that it is of this kind of task."""
    if read_json(path / CONFIG_NAME).get("task_type") == kind:
        raise SpecError(f"adapter {path.name} {what}")


@dataclass(eq=False)
class VersionReading:
    """An adapter that is being read."""

    name: str
    signature: Signature
    version: "Future[Version]" = field(default_factory=Future)
    void: bool = False
    """Whether the name was unloaded meanwhile."""


@dataclass(frozen=True)
class Verdict:
    """What a folder with this signature was found to hold under a name: a content, or an error."""

    signature: Signature
    found: str | LoralabError
    since: float = field(default_factory=time.monotonic)


class Registry:
    """The adapters of one folder, for one model. May be asked by several threads."""

    def __init__(
        self,
        model: PreTrainedModel,
        folder: Path | None,
        in_memory: int = 64,
        evicted: Callable[[str], None] | None = None,
        read: Reader | None = None,
    ) -> None:
        self._in_memory = in_memory
        self._folder = None if folder is None else ServedFolder(folder)
        self._reader = read or writers_of(model)
        self._evicted = evicted or (lambda key: None)
        self._loaders = ThreadPoolExecutor(LOADERS, thread_name_prefix="loralab adapters")
        self._lock = Lock()  # of all that follows; nothing is read from disk, and nobody waited for, while it is held
        self._paths: dict[str, Path] = {}
        self._hidden: set[str] = set()
        self._versions: OrderedDict[str, Version] = OrderedDict()
        self._verdicts: dict[str, Verdict] = {}
        self._loading: dict[str, VersionReading] = {}

    # -- asking ---------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """What can be asked for, sorted."""
        found = frozenset() if self._folder is None else self._folder.names()
        with self._lock:
            return sorted(found - self._hidden | self._paths.keys())

    def version(self, name: str) -> Version:
        """The content behind a name now, once it is there. Raises what `find` and its future raise."""
        return self.find(name).result()

    def find(self, name: str) -> "Future[Version]":
        """The content behind a name now: at once where it is in memory, else when it has been read.

        UnknownAdapterError or NotFoundError where there is none, SpecError for a folder that may not be read; the
        future raises what `read_pairs` does. It is shared: cancel it for nobody.
        """
        return self._asked(name, signature_of(self._path_of(name))).version

    def held(self) -> dict[str, str]:
        """The names whose content is in memory, and the keys of that content."""
        with self._lock:
            return {version.name: key for key, version in self._versions.items()}

    def folder_of(self, name: str) -> Path:
        """The folder behind a name. Raises what `version` does for a name without one."""
        return self._path_of(name)

    @property
    def memory_bytes(self) -> int:
        """What the pairs in memory take."""
        with self._lock:
            return sum(version.memory_bytes for version in self._versions.values())

    # -- coming and going -----------------------------------------------------------------------------------------

    def add(self, name: str, path: str) -> Version:
        """Offer a folder under a name of its own, once it has been read.

        SpecError for a name or place that is not allowed; the name is then what it was before.
        """
        if not NAME.fullmatch(name):
            raise SpecError(f"lora_name {name!r}: letters, digits, '.', '_' and '-' are allowed, 128 at most")
        folder = self._contained(path)
        loading = self._asked(name, signature_of(folder))
        version = loading.version.result()
        with self._lock:
            if loading.void:
                raise _unloaded(name)
            self._paths[name] = folder
            self._hidden.discard(name)
        return version

    def remove(self, name: str) -> None:
        """Offer a name no more, and free what it holds. UnknownAdapterError where there is none."""
        offered = self._folder is not None and self._folder.offers(name)
        with self._lock:
            held = [key for key, version in self._versions.items() if version.name == name]
            if name in self._hidden or not (offered or held or name in self._paths):
                raise _unknown(name)
            self._paths.pop(name, None)
            self._verdicts.pop(name, None)
            self._hidden.add(name)
            loading = self._loading.pop(name, None)
            if loading is not None:
                loading.void = True
            self._drop(held)

    def close(self) -> None:
        """Read nothing more."""
        self._loaders.shutdown(wait=True, cancel_futures=True)

    # -- places ---------------------------------------------------------------------------------------------------

    def _path_of(self, name: str) -> Path:
        with self._lock:
            path, hidden = self._paths.get(name), name in self._hidden
        if path is not None:
            return self._contained(path)
        if hidden or self._folder is None or not self._folder.offers(name):
            raise _unknown(name)
        return self._contained(name)

    def _contained(self, path: str | Path) -> Path:
        if self._folder is None:
            raise SpecError("this server was started without --adapters: it serves the base alone")
        return self._folder.contained(path)

    # -- reading --------------------------------------------------------------------------------------------------

    def _asked(self, name: str, signature: Signature) -> VersionReading:
        """What is known of a folder with this signature, what is being read of it, or a reading that begins now."""
        with self._lock:
            known = self._known(name, signature)
            if known is not None:
                return known
            before = self._loading.get(name)
            if before is not None and before.signature == signature:
                return before
            loading = self._loading[name] = VersionReading(name, signature)
            self._loaders.submit(self._load, loading, before)
            return loading

    def _known(self, name: str, signature: Signature) -> VersionReading | None:
        verdict = self._verdicts.get(name)
        if verdict is None or verdict.signature != signature:
            return None
        loading = VersionReading(name, signature)
        if isinstance(verdict.found, LoralabError):
            if time.monotonic() - verdict.since > REFUSED_SECONDS:
                return None
            loading.version.set_exception(verdict.found.with_traceback(None))
            return loading
        version = self._versions.get(verdict.found)
        if version is None:
            return None
        self._versions.move_to_end(version.key)
        loading.version.set_result(version)
        return loading

    def _load(self, loading: VersionReading, before: VersionReading | None) -> None:
        """In a thread of the registry's: read, publish and tell all who wait; one reading of a name at a time."""
        if before is not None:
            wait([before.version])
        try:
            version, signature = self._read(loading)
            with self._lock:
                version = self._published(loading, version, signature)
        except BaseException as problem:  # whatever it is, those who wait must hear of it
            with self._lock:
                self._leave(loading)
                if isinstance(problem, LoralabError) and not isinstance(problem, NotFoundError):
                    self._judge(loading, Verdict(loading.signature, problem))
            loading.version.set_exception(problem)
            if not isinstance(problem, LoralabError):
                log.exception("adapter %s could not be read", loading.name)
        else:
            loading.version.set_result(version)
        finally:
            let_threads_go()

    def _read(self, loading: VersionReading) -> tuple[Version, Signature]:
        """The content, and the signature that its folder had before and after."""
        path, name = loading.signature.path, loading.name
        for _ in range(ATTEMPTS):
            before = signature_of(path)
            try:
                version = self._content(path, name)
            except (LoralabError, OSError) as problem:
                if signature_of(path) != before:
                    continue
                if isinstance(problem, OSError) and not isinstance(problem, LoralabError):
                    raise NotFoundError(f"adapter {name!r} cannot be read: {problem.strerror}") from problem
                raise
            if signature_of(path) == before:
                return version, before
        raise AdapterFileError(f"adapter {name!r} changes while it is read; ask again when it has been written")

    def _content(self, path: Path, name: str) -> Version:
        key = hash_of(path, name)
        with self._lock:
            known = self._versions.get(key)
        return known or Version(name, key, *self._reader(path))

    def _published(self, loading: VersionReading, version: Version, signature: Signature) -> Version:
        """Under the lock: the version is what its name means now, unless the name was unloaded meanwhile."""
        self._leave(loading)
        if loading.void:
            raise _unloaded(loading.name)
        version = self._versions.setdefault(version.key, version)
        version.retired = False
        self._judge(loading, Verdict(signature, version.key))
        self._keep(version)
        return version

    def _leave(self, loading: VersionReading) -> None:
        if self._loading.get(loading.name) is loading:
            del self._loading[loading.name]

    def _judge(self, loading: VersionReading, verdict: Verdict) -> None:
        """Remember what a signature stands for, where it is sure to change with the content."""
        self._verdicts.pop(loading.name, None)
        if verdict.signature.is_settled and not loading.void:
            self._verdicts[loading.name] = verdict

    # -- memory ---------------------------------------------------------------------------------------------------

    def _keep(self, version: Version) -> None:
        """As the one used last; the ones not used for longest, and older versions of its name, are let go."""
        self._drop([key for key, each in self._versions.items() if each.name == version.name and key != version.key])
        self._versions.move_to_end(version.key)
        self._drop(list(self._versions)[: -self._in_memory])

    def _drop(self, keys: list[str]) -> None:
        for key in keys:
            self._versions.pop(key).retired = True
            self._evicted(key)


def _unknown(name: str) -> UnknownAdapterError:
    return UnknownAdapterError(f"no adapter is called {name!r} here")


def _unloaded(name: str) -> UnknownAdapterError:
    return UnknownAdapterError(f"adapter {name!r} was unloaded while it was being read; load it again")
