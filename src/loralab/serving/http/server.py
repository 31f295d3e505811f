"""What the routes share: the model and its tokenizer, the engine, the adapters, and the limits."""

import asyncio
import json
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loralab.errors import SpecError
from loralab.generation.generate import end_ids
from loralab.nn.tensors import tensor_of
from loralab.serving.engine.engine import EngineConfig
from loralab.serving.engine.trial import refuse_unservable
from loralab.serving.http.counts import ServedCounts
from loralab.serving.registry import Registry, Version
from loralab.serving.service import Service


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
    seconds: float = 600.0
    """The longest that a request may take."""
    in_memory: int = 64
    """Adapters that are kept in memory."""


class Refused(Exception):
    """A request that is answered by a status and a sentence."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind


class Server:
    """One model, served."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: ServerConfig) -> None:
        if config.folder is not None and not config.folder.is_dir():
            raise SpecError(f"adapters {config.folder}: no such folder; name the one that holds the adapters' folders")
        refuse_unservable(model)
        self.config, self.tokenizer = config, tokenizer
        self.service = Service(model, config.engine)
        self.registry = Registry(model, config.folder, config.in_memory, self.service.release)
        self.ends = frozenset(end_ids(model, tokenizer))
        self.vocabulary = len(tensor_of(model.get_input_embeddings(), "weight"))
        self.started = int(time.time())
        self.counts = ServedCounts()
        self._arriving = 0

    async def version(self, name: str) -> Version | None:
        """The adapter of this name, once it is in memory; None for the base. UnknownAdapterError for neither.

        It is shared with others who wait for it: whoever stops waiting ends nothing.
        """
        if name == self.config.name:
            return None
        self._arriving += 1
        try:
            found = await asyncio.to_thread(self.registry.find, name)
            return await asyncio.shield(asyncio.wrap_future(found))
        finally:
            self._arriving -= 1

    @property
    def waiting(self) -> int:
        """Requests that have not been begun, those included whose adapter is being read."""
        return self._arriving + self.service.waiting

    def prompt_ids(self, text: str) -> tuple[int, ...]:
        """A text as token ids, begun as the model's texts are."""
        return tuple(self.tokenizer(text)["input_ids"])

    def chat_ids(self, messages: list[dict[str, str]]) -> tuple[int, ...]:
        """A conversation as token ids, up to where the answer begins."""
        if self.tokenizer.chat_template is None:
            raise SpecError("the model has no chat template: ask /v1/completions")
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tuple(self.tokenizer(str(text), add_special_tokens=False)["input_ids"])

    def decoded(self, id: int) -> str:
        """A single token as text."""
        return str(self.tokenizer.decode([id]))

    def close(self) -> None:
        """Finish what has been begun."""
        self.service.close()
        self.registry.close()


def same(given: str, wanted: str) -> bool:
    """Whether two secrets are the same, in a time that does not tell."""
    return secrets.compare_digest(given.encode(), wanted.encode())


def sse(content: object) -> str:
    """A server-sent event."""
    written = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, allow_nan=False)
    return f"data: {written}\n\n"
