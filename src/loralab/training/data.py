"""Which batches a step sees: a pure function of the step, so that a resumed run only has to know its number."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from loralab.processes.group import ALONE, Processes
from loralab.tasks.encoding.batches import Batch, collate, epoch_batches, length_pool, longest_width
from loralab.tasks.encoding.encoded import AnyEncoded, EncodedRow, mass_of


@dataclass(frozen=True)
class StepData:
    """The batches of one optimizer step, and the examples they hold (for naming them in an error)."""

    batches: list[Batch]
    indices: list[list[int]]
    whole: Sequence[AnyEncoded] | None = None
    """All examples of the step, where the batches are only one process's share of them."""

    @property
    def _counted(self) -> Sequence[Batch | AnyEncoded]:
        return self.batches if self.whole is None else self.whole

    @property
    def tokens(self) -> int:
        """Real tokens, padding not counted."""
        return sum(each.tokens for each in self._counted)

    @property
    def targets(self) -> int:
        """Target tokens, or labels."""
        return sum(each.targets for each in self._counted)

    @property
    def mass(self) -> float:
        """What the targets count together: their number, where none has a weight."""
        return sum(batch.mass for batch in self.batches) if self.whole is None else sum(map(mass_of, self.whole))


class TrainingData:
    """Encoded examples, cut into steps of `accumulate` batches each, anew for every epoch.

    Of several processes each has its share of every batch. Where there are fewer examples than processes, one without
    a share has the first example, of which nothing counts: all go through the model equally often.
    """

    def __init__(
        self,
        encoded: Sequence[AnyEncoded],
        batch_size: int,
        accumulate: int,
        seed: int,
        pad_id: int,
        processes: Processes = ALONE,
        pool: int | None = None,
    ) -> None:
        """`pool`: batches' worth of examples that are sorted by length together; None: as suits what is predicted."""
        self.encoded = encoded
        self.processes = processes
        self.accumulate = accumulate
        self.pad_id = pad_id
        self.longest = longest_width(encoded)
        lengths = [each.tokens for each in encoded]
        pool = length_pool(encoded) if pool is None else pool
        self._epoch = lru_cache(maxsize=1)(lambda epoch: epoch_batches(lengths, batch_size, seed, epoch, pool))
        self._first: dict[int, Sequence[int]] = {}
        self.steps_per_epoch = math.ceil(len(self._epoch(0)) / accumulate)

    def step(self, number: int) -> StepData:
        """The data of step `number`, counted from 1 over all epochs."""
        epoch, place = divmod(number - 1, self.steps_per_epoch)
        indices = self._epoch(epoch)[place * self.accumulate : (place + 1) * self.accumulate]
        whole = [self.encoded[each] for batch in indices for each in batch] if self.processes.are_several else None
        examples = [self._examples_of(batch) for batch in indices]
        return StepData([self._share(batch) for batch in indices], examples, whole)

    def first_batch_with(self, place: int) -> Batch:
        """The batch of the first epoch that holds an example, or the share of it that does."""
        if not self._first:
            shares = [share for batch in self._epoch(0) for share in self.processes.shares(batch)]
            self._first = {each: share for share in shares for each in share}
        return self._batch(self._first[place])

    def for_one_process(self) -> Iterator[Batch]:
        """The batches of the first epoch, whole."""
        return (self._batch(places) for places in self._epoch(0))

    def _share(self, places: Sequence[int]) -> Batch:
        own = self.processes.own(places)
        return self._batch(own) if own else _counting_nothing(self._batch(places[:1]))

    def _examples_of(self, places: Sequence[int]) -> list[int]:
        """The examples that stand at these places, of which a packed row holds several."""
        held = [self.encoded[place] for place in places]
        rows = zip(places, held, strict=True)
        return [each for place, row in rows for each in (row.places if isinstance(row, EncodedRow) else (place,))]

    def _batch(self, places: Sequence[int]) -> Batch:
        batch = collate([self.encoded[place] for place in places], self.pad_id, longest=self.longest)
        return replace(batch, places=tuple(places))


def _counting_nothing(batch: Batch) -> Batch:
    """The same, none of whose targets adds to the loss or its gradient."""
    shape = batch.input_ids.shape if "position_ids" in batch.inputs else (1,)
    return replace(batch, tokens=0, targets=0, weights=torch.zeros(shape))
