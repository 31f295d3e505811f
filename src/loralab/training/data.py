"""Which batches a step sees: a pure function of the step, so that a resumed run only has to know its number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from loralab.tasks.encoding.batches import Batch, collate, epoch_batches, longest_width
from loralab.tasks.encoding.encoded import AnyEncoded


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
        self.steps_per_epoch = math.ceil(len(self._epoch(0)) / accumulate)

    def step(self, number: int) -> StepData:
        """The data of step `number`, counted from 1 over all epochs."""
        epoch, place = divmod(number - 1, self.steps_per_epoch)
        indices = self._epoch(epoch)[place * self.accumulate : (place + 1) * self.accumulate]
        chosen = ([self.encoded[index] for index in batch] for batch in indices)
        batches = [collate(examples, self.pad_id, longest=self.longest) for examples in chosen]
        return StepData(batches, indices)
