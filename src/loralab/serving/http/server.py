"""What the routes share: the model and its tokenizer, the engine, the adapters, and the limits."""

import asyncio
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loralab.errors import SpecError
from loralab.methods.beside import fresh_heads
from loralab.models.context import context_length
from loralab.nn.tensors import tensor_of
from loralab.serving.classifying.service import ClassifierService
from loralab.serving.engine.engine import LONGEST, EngineConfig
from loralab.serving.engine.reuse import why_not_reused
from loralab.serving.engine.trial import refuse_unservable
from loralab.serving.http.codec import Codec
from loralab.serving.http.counts import ServedCounts
from loralab.serving.registry import Registry, Version, classifiers_of, writers_of
from loralab.serving.selftest import self_test
from loralab.serving.service import Service
from loralab.tasks.encoding.encode import padding_id


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Of a server."""

    name: str
    """What the base answers to."""
    folder: Path | None = None
    """Where the adapters lie; None: the base alone."""
    admin_token: str | None = None
    """Who has it may load and unload; without one nobody may."""
    api_key: str | None = None
    """What every request must bring, if anything."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    waiting: int = 256
    """Requests that may wait; more are sent away."""
    hosts: frozenset[str] | None = None
    """The names that it answers to; None: any."""
    seconds: float = 600.0
    """The longest that a request may take."""
    body_seconds: float = 30.0
    """The longest that its body may take to come."""
    in_memory: int = 64
    """Adapters that are kept in memory."""


class Refused(Exception):
    """A request that is answered by a status and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Effects:
    """Effects by the hash of an adapter's content: those that were measured last."""

    def __init__(self, most: int = 4096) -> None:
        self._most, self._found = most, OrderedDict[str, float]()

    def get(self, key: str) -> float | None:
        """None where it has not been measured."""
        return self._found.get(key)

    def put(self, key: str, effect: float) -> None:
        """Remember one."""
        self._found[key] = effect
        if len(self._found) > self._most:
            self._found.popitem(last=False)


class Server:
    """One model, served."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: ServerConfig,
        labels: Sequence[str] | None = None,
    ) -> None:
        """A model that writes text, or a classifier; `labels` are its own classes, where its own head was trained."""
        if config.folder is not None and not config.folder.is_dir():
            raise SpecError(f"adapters {config.folder}: no such folder; name the one that holds the adapters' folders")
        self.config = config
        self.labels = None if labels is None else tuple(labels)
        self.notes: list[str] = []
        self._service: Service | None = None
        self._classifier: ClassifierService | None = None
        if fresh_heads(model):
            self._classifier = ClassifierService(model, padding_id(tokenizer), config.engine.rows)
            release, reader = self._classifier.release, classifiers_of(model, tokenizer)
        else:
            refuse_unservable(model)
            self._service = Service(model, self._engine_config(model))
            self.notes.append(self._service.engine.how)
            release, reader = self._service.release, writers_of(model, tokenizer)
        self.longest = longest_text(model, config.engine.length)
        self.registry = Registry(model, config.folder, config.in_memory, release, reader)
        self.codec, self._model = Codec.of(model, tokenizer), model
        self._codecs: WeakKeyDictionary[PreTrainedTokenizerBase, Codec] = WeakKeyDictionary()
        self.vocabulary = len(tensor_of(model.get_input_embeddings(), "weight"))
        self.started = int(time.time())
        self.counts = ServedCounts()
        self.effects = Effects()
        self._in_flight = 0
        self._closing = False

    def test_itself(self) -> None:
        """Note whether the base and the first adapters answer together what each answers alone; see `self_test`."""
        if self._service is not None:
            most = min(self.config.in_memory, max(1, self.config.engine.rows - 1))
            self.notes += self_test(self._service, self.registry, most, self.vocabulary)

    def _engine_config(self, model: PreTrainedModel) -> EngineConfig:
        """As asked, without beginnings that are kept where the model's cannot be read again."""
        wanted = self.config.engine
        why_not = why_not_reused(model) if wanted.prefix_bytes else ""
        if not why_not:
            return wanted
        self.notes.append(f"prompts are read whole, whatever was read before: {why_not}")
        return replace(wanted, prefix_bytes=0)

    @property
    def kind(self) -> str:
        """What the model does: "generation" or "classification"."""
        return "generation" if self._classifier is None else "classification"

    @property
    def service(self) -> Service:
        """What writes. Refused where the model classifies."""
        if self._service is None:
            raise Refused(400, f"{self.config.name} and its adapters classify: ask /v1/classify")
        return self._service

    @property
    def classifier(self) -> ClassifierService:
        """What classifies. Refused where the model writes text."""
        if self._classifier is None:
            raise Refused(
                400,
                f"{self.config.name} and its adapters write text: ask /v1/completions or /v1/chat/completions; "
                "classifiers are served by a server of their own, started with --task classification",
            )
        return self._classifier

    @property
    def chats(self) -> bool:
        """Whether the model answers conversations."""
        return self._service is not None and self.codec.tokenizer.chat_template is not None

    @property
    def is_alive(self) -> bool:
        """Whether requests are being answered."""
        return (self._service or self.classifier).is_alive

    @property
    def is_ready(self) -> bool:
        """Whether new ones are: the model is loaded and tried (a server that is not is never made), and not leaving."""
        return self.is_alive and not self._closing

    @property
    def running(self) -> int:
        """Rows that are being computed."""
        return self._service.engine.running if self._service is not None else self.classifier.running

    def gauges(self) -> dict[str, float]:
        """What Prometheus is told of this moment."""
        common: dict[str, float] = {
            "waiting_requests": self.waiting,
            "running_rows": self.running,
            "rows": self.config.engine.rows,
            "adapter_memory_bytes": self.registry.memory_bytes,
        }
        if self._service is None:
            return common | {"bank_bytes": self.classifier.bank_bytes}
        engine = self._service.engine
        return common | {
            "bank_bytes": engine.bank.memory_bytes,
            "prefix_bytes": engine.prefixes.memory_bytes,
            "prefix_hits": engine.prefixes.hits,
            "prefix_tokens_reused": engine.prefixes.reused,
        }

    @property
    def waiting(self) -> int:
        """Answers that were asked for and are not being computed yet."""
        return max(0, self._in_flight - self.running)

    @contextmanager
    def admitted(self, answers: int) -> Iterator[None]:
        """While so many more are being asked for. Refused where they are more than may be. For the server's loop."""
        most = self.config.engine.rows + self.config.waiting
        if answers > most:
            raise Refused(400, f"{answers} answers were asked for; at most {most} may be at once: ask in parts")
        if self._in_flight + answers > most:
            raise Refused(429, f"{self.config.waiting} requests are waiting, the most that may")
        self._in_flight += answers
        try:
            yield
        finally:
            self._in_flight -= answers

    async def version(self, name: str) -> Version | None:
        """The adapter of this name, once it is in memory; None for the base. UnknownAdapterError for neither.

        It is shared with others who wait for it: whoever stops waiting ends nothing.
        """
        if name == self.config.name:
            return None
        found = await asyncio.to_thread(self.registry.find, name)
        return await asyncio.shield(asyncio.wrap_future(found))

    def codec_of(self, version: Version | None) -> Codec:
        """How an adapter, or the base, is asked: by its own tokenizer, where it has one."""
        if version is None or version.tokenizer is None:
            return self.codec
        if version.tokenizer not in self._codecs:
            self._codecs[version.tokenizer] = Codec.of(self._model, version.tokenizer)
        return self._codecs[version.tokenizer]

    def close(self) -> None:
        """Finish what has been begun."""
        self._closing = True
        (self._service or self.classifier).close()
        self.registry.close()


def longest_text(model: PreTrainedModel, asked: int | None) -> int:
    """Tokens of a text to be classified, the model's context at most."""
    fits = [each for each in (asked, context_length(model), LONGEST) if each is not None]
    return min(fits)


def same(given: str, wanted: str) -> bool:
    """Whether a secret, its bytes as Latin-1 as in a header, is the one wanted, in a time that does not tell."""
    return secrets.compare_digest(given.encode("latin-1"), wanted.encode("utf-8", "surrogateescape"))


def sse(content: object) -> str:
    """A server-sent event."""
    written = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, allow_nan=False)
    return f"data: {written}\n\n"
