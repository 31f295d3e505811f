"""Which examples go together, and the tensors of a batch. It knows nothing of tasks, models and optimizers.

Shapes: B examples of a batch, T tokens of the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor

from loralab.errors import SpecError
from loralab.tasks.encoding import Encoded
from loralab.tasks.tokens import IGNORED

POOL_BATCHES = 50
"""Batches' worth of examples that are sorted by length together: enough for near-equal lengths, few enough that an
epoch is still shuffled.
"""


@dataclass(frozen=True)
class Batch:
    """The tensors of one step, padded on the right."""

    input_ids: Tensor
    """[B, T], padded with the padding token."""
    attention_mask: Tensor | None
    """[B, T], 1 at real tokens, or None where none is needed: see `collate`."""
    labels: Tensor | None
    """[B, T] with `IGNORED` where there is no target (an encoder-decoder: [B, target tokens]); or [B], classes
    (int64) or values (float32); or None where they are not known.
    """
    tokens: int
    """Real tokens: padding is not counted, an encoder-decoder's targets are."""
    targets: int
    """Tokens, or labels, that the loss is taken on."""
    token_type_ids: Tensor | None = None
    """[B, T], for tokenizers that tell the texts of a pair apart."""

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=_moved(self.attention_mask, device),
            labels=_moved(self.labels, device),
            token_type_ids=_moved(self.token_type_ids, device),
        )


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The indices of each batch of an epoch: every index exactly once, batches of near-equal length, in random order.

    A pure function of its arguments, so a run resumes by skipping the batches it has seen. Shuffle all, sort
    by length within pools of `POOL_BATCHES` batches, cut, shuffle the batches. Only one batch may be
    smaller than `batch_size`. Raises `SpecError` for a batch size below 1.
    """
    _check_batch_size(batch_size)
    random = Random(f"{seed}/{epoch}")  # text is hashed by SHA-512, the same in every process
    order = list(range(len(lengths)))
    random.shuffle(order)
    pool = batch_size * POOL_BATCHES
    batches = []
    for start in range(0, len(order), pool):
        near = sorted(order[start : start + pool], key=lambda index: lengths[index])
        batches += [near[cut : cut + batch_size] for cut in range(0, len(near), batch_size)]
    random.shuffle(batches)
    return batches


def sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """The indices of each batch for evaluation: every index once, longest first, so that the first batch needs most
    memory.
    """
    _check_batch_size(batch_size)
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[cut : cut + batch_size] for cut in range(0, len(order), batch_size)]


def collate(encoded: Sequence[Encoded], pad_id: int, *, causal: bool = False) -> Batch:
    """One batch of examples that are all of one kind, padded on the right with `pad_id`.

    The mask is None where all are equally long; and for `causal` language models always. That is exact: a token
    of a causal model sees only tokens to its left, all padding is to the right of every real token, so no
    real token's output depends on it, positions count from the left alike, and the loss is taken at real tokens only.
    Without a mask attention takes its fastest path. For encoders the padding must be masked.
    """
    rows = [each.input_ids for each in encoded]
    padded = len({len(row) for row in rows}) > 1
    kinds = [each.token_type_ids for each in encoded if each.token_type_ids is not None]
    return Batch(
        input_ids=_padded(rows, pad_id),
        attention_mask=_padded([[1] * len(row) for row in rows], 0) if padded and not causal else None,
        labels=_label_tensor([each.labels for each in encoded]),
        tokens=sum(each.tokens for each in encoded),
        targets=sum(each.targets for each in encoded),
        token_type_ids=_padded(kinds, 0) if kinds else None,
    )


def _label_tensor(labels: Sequence[list[int] | int | float | None]) -> Tensor | None:
    sequences = [each for each in labels if isinstance(each, list)]
    if sequences:
        return _padded(sequences, IGNORED)
    known = [each for each in labels if isinstance(each, int | float)]
    if len(known) < len(labels):
        return None
    return torch.tensor(known, dtype=torch.int64 if isinstance(known[0], int) else torch.float32)


def _moved(tensor: Tensor | None, device: torch.device | str) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


def _padded(rows: Sequence[list[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise SpecError(f"batch size {batch_size}: at least 1 is needed")
