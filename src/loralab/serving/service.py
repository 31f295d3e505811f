"""The engine in a thread of its own, asked from anywhere: prompts in, events out, each to whoever asked.

The thread alone touches the engine. Others hand it orders; what it answers is called back from the thread.
"""

import logging
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread

from transformers import PreTrainedModel

from loralab.errors import LoralabError
from loralab.machine import let_threads_go
from loralab.serving.engine.engine import Engine, EngineConfig
from loralab.serving.engine.request import Done, Event, Request
from loralab.serving.registry import Version

Listener = Callable[[Event], None]
Order = Callable[[], None]
log = logging.getLogger(__name__)


class Service:
    """Answers requests until it is closed."""

    def __init__(self, model: PreTrainedModel, config: EngineConfig | None = None) -> None:
        self.engine = Engine(model, config)
        self._orders: deque[Order] = deque()
        self._listeners: dict[Request, Listener] = {}
        self._wake = Condition()
        self._closing = False
        let_threads_go()  # from now on another one computes
        self._thread = Thread(target=self._serve, name="loralab engine", daemon=True)
        self._thread.start()

    # -- from any thread ------------------------------------------------------------------------------------------

    def ask(self, request: Request, listener: Listener, version: Version | None = None) -> None:
        """Answer a request: `listener` gets every event of it, from the engine's thread."""

        def begin() -> None:
            self._listeners[request] = listener
            if version is not None:
                self.engine.hold(version.key, version.pairs)
            try:
                self.engine.submit(request)
            except LoralabError as problem:
                log.warning("a request was refused by the engine: %s", problem)
                self._tell(Done(request, "failed"))
            if version is not None and version.retired:  # meanwhile: it goes with the last request that has it
                self.engine.release(version.key)

        self._order(begin)

    def cancel(self, request: Request) -> None:
        """Nobody waits for it any more."""
        self._order(lambda: self.engine.cancel(request) if request in self._listeners else None)

    def release(self, key: str) -> None:
        """Let go of an adapter once the last request that uses it is done."""
        self._order(lambda: self.engine.release(key))

    def close(self) -> None:
        """Finish what has been begun, then stop."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests that have not been begun."""
        return self.engine.waiting + len(self._orders)

    def _order(self, order: Order) -> None:
        with self._wake:
            self._orders.append(order)
            self._wake.notify()

    # -- in the engine's thread -----------------------------------------------------------------------------------

    def _serve(self) -> None:
        while self._has_work():
            while self._orders:
                self._orders.popleft()()
            for event in self._step():
                self._tell(event)
        self.engine.bank.close()

    def _has_work(self) -> bool:
        """Wait for something to do; False when there is nothing left and it is closing."""
        with self._wake:
            while not self._orders and self.engine.is_idle:
                if self._closing:
                    return False
                self._wake.wait()
            return True

    def _step(self) -> list[Event]:
        """A step. What fails there fails every request that was begun, and the engine goes on empty."""
        try:
            return self.engine.step()
        except Exception as error:
            log.exception("a step of the engine failed: %s", error)
            return [Done(request, "failed") for request in self.engine.start_over()]

    def _tell(self, event: Event) -> None:
        listener = self._listeners.get(event.request)
        if isinstance(event, Done):
            self._listeners.pop(event.request, None)
        if listener is not None:
            _heard(listener, event)


def _heard(listener: Listener, event: Event) -> None:
    """Whoever fails at listening fails alone."""
    try:
        listener(event)
    except Exception as error:
        log.exception("a listener failed: %s", error)
