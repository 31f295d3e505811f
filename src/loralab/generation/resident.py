"""An engine that outlives a call: for a conversation on one model, whose adapters take turns to answer.

It is given the pairs of the adapters, so that the weights' quicker layout is made once for all of them, and keeps the
beginnings of prompts, so that what was said is not read again. What is changed on the model meanwhile it does not see.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import psutil
from transformers import PreTrainedModel

from loralab.core.adapter import adapters_on
from loralab.core.attach import disabled
from loralab.core.layer import Speaker
from loralab.errors import AdapterStateError
from loralab.models.size import weight_bytes
from loralab.serving.engine.bank import Pairs
from loralab.serving.engine.engine import Engine, EngineConfig
from loralab.serving.engine.low_rank import speaking_pairs
from loralab.serving.engine.reuse import why_not_reused

KEPT_BYTES = 2**28
"""Of keys and values of prompts' beginnings."""


def may_copy_weights(model: PreTrainedModel) -> bool:
    """Whether a second copy of the weights takes no more than half of the memory that is free."""
    return 2 * weight_bytes(model) < free_bytes()


def free_bytes() -> int:
    """Of the processor's memory."""
    free: int = psutil.virtual_memory().available
    return free


class ResidentEngine:
    """The engine of a model, for whoever speaks on it."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._engine: Engine | None = None
        self._pairs: dict[Speaker | None, Pairs | None] = {}

    @contextmanager
    def turn(self, tokens: int) -> Iterator[tuple[Engine, str | None] | None]:
        """The engine, and what its requests name for those who speak now; they do not within this block.

        None where it cannot answer for them, or not in a text of so many tokens, question and answer together. What is
        not finished at the end of the block is dropped.
        """
        adapters = adapters_on(self._model)
        speaker = adapters.routing.active
        if speaker not in self._pairs:
            self._pairs[speaker] = _pairs_of(self._model)
        pairs = self._pairs[speaker]
        if pairs is None or adapters.routing.merged is not None:
            yield None
            return
        with disabled(self._model) if adapters.adapters else nullcontext():
            engine = self._engine = self._engine or _made(self._model)
            key = repr(speaker) if pairs else None
            if key is not None and key not in engine.held:
                engine.hold(key, pairs)
            try:
                yield (engine, key) if tokens <= engine.length else None
            finally:
                engine.abandon()


def _pairs_of(model: PreTrainedModel) -> Pairs | None:
    try:
        return speaking_pairs(model)
    except AdapterStateError:
        return None


def _made(model: PreTrainedModel) -> Engine:
    kept = 0 if why_not_reused(model) else KEPT_BYTES
    return Engine(model, EngineConfig(rows=1, pack=may_copy_weights(model), prefix_bytes=kept))
