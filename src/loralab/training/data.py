"""Which batches a step sees: a pure function of the step, so that a resumed run only has to know its number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from loralab.tasks.encoding.batches import Batch, collate, epoch_batches, longest_width
from loralab.tasks.encoding.encoded import AnyEncoded, EncodedRow


@dataclass(frozen=True)
class StepData:
    """The batches of one optimizer step, and the examples they hold (for naming them in an error)."""

    batches: list[Batch]
    indices: list[list[int]]

    @property
    def tokens(self) -> int:
        """Real tokens, padding not counted."""
        return sum(batch.tokens for batch in self.batches)

    @property
    def targets(self) -> int:
        """Target tokens, or labels."""
        return sum(batch.targets for batch in self.batches)

    @property
    def mass(self) -> float:
        """What the targets count together: their number, where none has a weight."""
        return sum(batch.mass for batch in self.batches)


class TrainingData:
    """Encoded examples, cut into steps of `accumulate` batches each, anew for every epoch."""

    def __init__(self, encoded: Sequence[AnyEncoded], batch_size: int, accumulate: int, seed: int, pad_id: int) -> None:
        self.encoded = encoded
        self.accumulate = accumulate
        self.pad_id = pad_id
        self.longest = longest_width(encoded)
        lengths = [each.tokens for each in encoded]
        self._epoch = lru_cache(maxsize=1)(lambda epoch: epoch_batches(lengths, batch_size, seed, epoch))
        self._first: dict[int, list[int]] = {}
        self.steps_per_epoch = math.ceil(len(self._epoch(0)) / accumulate)

    def step(self, number: int) -> StepData:
        """The data of step `number`, counted from 1 over all epochs."""
        epoch, place = divmod(number - 1, self.steps_per_epoch)
        indices = self._epoch(epoch)[place * self.accumulate : (place + 1) * self.accumulate]
        return StepData([self._batch(batch) for batch in indices], [self._examples_of(batch) for batch in indices])

    def first_batch_with(self, place: int) -> Batch:
        """The batch of the first epoch that holds an example."""
        if not self._first:
            self._first = {each: batch for batch in self._epoch(0) for each in batch}
        return self._batch(self._first[place])

    def _examples_of(self, places: Sequence[int]) -> list[int]:
        """The examples that stand at these places, of which a packed row holds several."""
        held = [self.encoded[place] for place in places]
        rows = zip(places, held, strict=True)
        return [each for place, row in rows for each in (row.places if isinstance(row, EncodedRow) else (place,))]

    def _batch(self, places: Sequence[int]) -> Batch:
        batch = collate([self.encoded[place] for place in places], self.pad_id, longest=self.longest)
        return replace(batch, places=tuple(places))
