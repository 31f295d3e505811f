"""One step of decoding: the newest token of every row in, the logits behind it out; and the reading of prompts.

A decoder is the reusable piece under the engine. It owns the bank with the adapters' factors and writes to a cache that
it is given; which rows there are, what they ask for and what is chosen from the logits is not its business.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from loralab.core.rows.call import with_cache
from loralab.nn.mode import evaluating
from loralab.serving.engine.bank import FactorBank
from loralab.serving.engine.cache import RowCache


@dataclass(frozen=True)
class Chunk:
    """Tokens of a text, which follow what its cache holds and join it there. Two at least, where the text has them."""

    ids: Sequence[int]
    adapter: str | None
    """Which the text is read under; None: the base."""
    cache: DynamicCache


class Decoder(Protocol):
    """Takes a step for the rows 0 … R-1 of a cache."""

    bank: FactorBank
    """Put an adapter's pairs here before a row names it."""

    @property
    def how(self) -> str:
        """A sentence for whoever starts it: what is run, and why."""

    @property
    def is_compiled(self) -> bool:
        """Whether compiled kernels run between the products of its steps."""

    @property
    def memory_bytes(self) -> int:
        """What it holds beside the model, the bank and the cache."""

    def logits(self, ids: Sequence[int], adapters: Sequence[str | None], cache: RowCache) -> Tensor:
        """The logits [R, V] behind token `ids[r]` of row r, answered by adapter `adapters[r]` (None: the base).

        The keys and values of these tokens are written to column `cache.now`; call `cache.advance()` before the next
        step. To be called in inference mode, as `read` is.
        """

    def read(self, chunks: Sequence[Chunk]) -> Tensor:
        """The logits [K, V] behind the last token of each of K texts' chunks.

        A text that is read by the same chunks gives the same bits each time, whichever others are read beside it.
        """


class PlainDecoder:
    """By the model's own forward. A row that is alone is computed twice, as products of one row round otherwise."""

    def __init__(self, model: PreTrainedModel, why: str) -> None:
        self.bank = FactorBank(model)
        self._model, self._why = model, why
        takes = inspect.signature(model.forward).parameters
        self._last_logits_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    @property
    def how(self) -> str:
        """Says why nothing quicker is run."""
        return f"decoding: the model's own modules ({self._why})"

    @property
    def is_compiled(self) -> bool:
        """Never."""
        return False

    @property
    def memory_bytes(self) -> int:
        """None."""
        return 0

    def logits(self, ids: Sequence[int], adapters: Sequence[str | None], cache: RowCache) -> Tensor:
        """See `Decoder`."""
        numbers, device = rows_of(len(ids), least=2), self._model.device
        with self.bank.seen_by([adapters[number] for number in numbers]), evaluating(self._model):
            logits_R1V: Tensor = self._model(
                input_ids=torch.tensor([[ids[number]] for number in numbers], device=device),
                attention_mask=cache.mask(numbers, device),
                position_ids=cache.positions(numbers, device),
                **with_cache(self._model, cache),
                use_cache=True,
            ).logits
        return logits_R1V[: len(ids), -1]

    def read(self, chunks: Sequence[Chunk]) -> Tensor:
        """See `Decoder`; one after the other."""
        return torch.stack([self._read(chunk) for chunk in chunks])

    def _read(self, chunk: Chunk) -> Tensor:
        """[V]."""
        known, device = chunk.cache.get_seq_length(), self._model.device
        length = known + len(chunk.ids)
        with self.bank.seen_by([chunk.adapter]), evaluating(self._model):
            logits_1TV: Tensor = self._model(
                input_ids=torch.tensor([[*chunk.ids]], device=device),
                attention_mask=torch.ones(1, length, dtype=torch.long, device=device),
                position_ids=torch.arange(known, length, device=device)[None],
                **with_cache(self._model, chunk.cache),
                use_cache=True,
                **self._last_logits_only,
            ).logits
        return logits_1TV[0, -1]


def rows_of(rows: int, least: int) -> list[int]:
    """The rows to compute: each, and the first again where they are fewer than at least must be."""
    return [*range(rows), *[0] * (least - rows)]
