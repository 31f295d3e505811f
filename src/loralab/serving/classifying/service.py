"""The classifier in a thread of its own: texts in, outputs back to whoever asked; those that wait share batches."""

import logging
from collections import OrderedDict, deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loralab.errors import NumericsError
from loralab.machine import let_threads_go
from loralab.serving.classifying.classifier import Classifier
from loralab.serving.registry import Version
from loralab.tasks.encoding.batches import collate
from loralab.tasks.encoding.encoded import Encoded

log = logging.getLogger(__name__)


@dataclass(eq=False)
class ClassifyRequest:
    """A text, or a pair, that is to be classified."""

    encoded: Encoded
    version: Version | None
    """None: the base."""
    outputs: "Future[Tensor]" = field(default_factory=Future)
    """[C], in float32; whoever waits for it no more cancels it."""

    @property
    def key(self) -> str | None:
        """Of its adapter."""
        return None if self.version is None else self.version.key


class ClassifierService:
    """Classifies until it is closed."""

    def __init__(self, model: PreTrainedModel, pad_id: int, rows: int) -> None:
        self._classifier = Classifier(model, in_bank=2 * rows)
        self._pad_id, self._rows = pad_id, rows
        self._waiting: OrderedDict[str | None, deque[ClassifyRequest]] = OrderedDict()
        self._released: set[str] = set()
        self._running = 0
        self._wake = Condition()
        self._closing = False
        let_threads_go()  # from now on another one computes
        self._thread = Thread(target=self._serve, name="loralab classifier", daemon=True)
        self._thread.start()

    def ask(self, asked: ClassifyRequest) -> None:
        """Classify it; the answer is its future's."""
        with self._wake:
            self._waiting.setdefault(asked.key, deque()).append(asked)
            self._wake.notify()

    def release(self, key: str) -> None:
        """Let go of an adapter once nothing that waits has it."""
        with self._wake:
            self._released.add(key)
            self._wake.notify()

    def close(self) -> None:
        """Finish what has been asked, then stop."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    @property
    def running(self) -> int:
        """Rows that are being computed."""
        return self._running

    @property
    def bank_bytes(self) -> int:
        """What the factors at hand take."""
        return self._classifier.bank.memory_bytes

    # -- in the thread --------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while (batch := self._next()) is not None:
            self._running = len(batch)
            self._answer(batch)
            self._running = 0

    def _next(self) -> list[ClassifyRequest] | None:
        """The next batch, the adapters in turn; None when there is nothing left and it is closing."""
        with self._wake:
            while True:
                self._let_go()
                if self._waiting:
                    return self._taken()
                if self._closing:
                    return None
                self._wake.wait()

    def _taken(self) -> list[ClassifyRequest]:
        batch: list[ClassifyRequest] = []
        while self._waiting and len(batch) < self._rows:
            key, queue = self._waiting.popitem(last=False)
            asked = queue.popleft()
            if queue:
                self._waiting[key] = queue
            if asked.outputs.set_running_or_notify_cancel():
                batch.append(asked)
        return batch

    def _let_go(self) -> None:
        for key in [key for key in self._released if key not in self._waiting]:
            self._released.discard(key)
            self._classifier.release(key)

    def _answer(self, batch: list[ClassifyRequest]) -> None:
        """A batch that fails is answered one by one, so that only what is at fault fails."""
        try:
            found = self._outputs(batch) if batch else []
        except Exception as problem:
            if len(batch) > 1:
                for asked in batch:
                    self._answer([asked])
                return
            log.exception("a text could not be classified: %s", problem)
            batch[0].outputs.set_exception(problem)
            return
        for asked, outputs_C in zip(batch, found, strict=True):
            if bool(torch.isfinite(outputs_C).all()):
                asked.outputs.set_result(outputs_C)
            else:
                asked.outputs.set_exception(NumericsError("an output of the classifier is NaN or infinite"))

    def _outputs(self, batch: list[ClassifyRequest]) -> list[Tensor]:
        for asked in batch:
            if asked.version is not None and asked.version.head is not None:
                self._classifier.hold(asked.version.key, asked.version.pairs, asked.version.head)
                if asked.version.retired:
                    self._released.add(asked.version.key)
        inputs = collate([asked.encoded for asked in batch], self._pad_id).inputs
        return self._classifier.logits(inputs, [asked.key for asked in batch])
