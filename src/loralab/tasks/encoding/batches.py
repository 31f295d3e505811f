"""Which examples go together, and the tensors of a batch.

Shapes: B examples of a batch, T tokens of the longest; C channels, H rows and W columns of pixels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor

from loralab.errors import SpecError
from loralab.nn.targets import IGNORED
from loralab.tasks.encoding.encoded import AnyEncoded, Encoded, EncodedPair, EncodedRow
from loralab.tasks.encoding.images import EncodedImage, pixel_values

POOL_BATCHES = 50
"""Batches' worth of examples that are sorted by length together: enough for near-equal lengths, few enough that an
epoch is still shuffled.
"""


def length_pool(encoded: Sequence[AnyEncoded]) -> int:
    """Batches' worth of examples to sort by length together, where nobody said: POOL_BATCHES where tokens are
    predicted, else 1, for none.

    Texts of one length are alike in what they are labelled too (captions are short, news are long), so that one batch
    pulls a classifier where the next pulls it back: two of three seeds of LoRA on STS-B that ended at a Pearson of 15.6
    and 11.0 reach 86.5 and 78.8 with batches drawn at random (docs/results/claims.md).
    """
    return 1 if any(_has_one_target(each) for each in encoded[:1]) else POOL_BATCHES


def _has_one_target(encoded: AnyEncoded) -> bool:
    return not isinstance(encoded, EncodedRow) and not (
        isinstance(encoded, Encoded) and isinstance(encoded.labels, list)
    )


WIDTH_STEP = 4
"""Widths of a run's batches are multiples of it: with few of them an allocator reuses what it has, and a run's memory
does not creep up.
"""


@dataclass(frozen=True)
class Batch:
    """The tensors of one step."""

    inputs: Mapping[str, Tensor]
    """What the model is called with, by transformers' names. Of texts, padded on the right: `input_ids` [B, T];
    `attention_mask` [B, T], 1 at real tokens, where one is needed (see `collate`); `token_type_ids` [B, T], where the
    tokenizer tells the texts of a pair apart; `position_ids` [B, T] of packed rows. Of images:
    `pixel_values` [B, C, H, W].
    """
    labels: Tensor | None
    """[B, T] with `IGNORED` where there is no target (an encoder-decoder: [B, target tokens]); or [B], classes
    (int64) or values (float32); or None where they are not known.
    """
    tokens: int
    """Real tokens: padding is not counted, an encoder-decoder's targets are; an image is one."""
    targets: int
    """Tokens, or labels, that the loss is taken on."""
    weights: Tensor | None = None
    """[B], what each example's targets count in the training loss; of packed rows [B, T], of each token; None where all
    count 1."""
    pairs: bool = False
    """Whether these are 2B rows of B pairs of answers, all preferred ones first; the targets are then the pairs."""
    places: tuple[int, ...] = ()
    """Where the examples stand among those of the run, if it said so."""

    @property
    def input_ids(self) -> Tensor:
        """[B, T], of texts."""
        return self.inputs["input_ids"]

    @property
    def attention_mask(self) -> Tensor | None:
        """[B, T], or None where none is needed."""
        return self.inputs.get("attention_mask")

    @property
    def mass(self) -> float:
        """Σ over the targets of their weights: what the weighted sum of their losses is divided by."""
        if self.weights is None or self.labels is None:
            return self.targets
        if self.pairs:
            return float(self.weights.sum())
        if self.weights.ndim > 1:
            return float(self.weights[self.labels != IGNORED].sum())
        targets_B = (self.labels != IGNORED).sum(1) if self.labels.ndim > 1 else torch.ones_like(self.weights)
        return float(targets_B.to(self.weights.dtype) @ self.weights)

    def to(self, device: torch.device | str) -> "Batch":
        """This batch on another device."""
        inputs = {name: _moved(tensor, device) for name, tensor in self.inputs.items()}
        labels, weights = (None if each is None else _moved(each, device) for each in (self.labels, self.weights))
        return replace(self, inputs=inputs, labels=labels, weights=weights)


def _moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """To CUDA from memory that stays in its place, so that nobody waits for the copy."""
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int, pool: int) -> list[list[int]]:
    """The indices of each batch of an epoch: every index exactly once, in random order.

    A pure function of its arguments, so a run resumes by skipping the batches it has seen. Shuffle all, sort
    by length within pools of `pool` batches (1: not at all), cut, shuffle the batches. Only one batch may be
    smaller than `batch_size`. Raises `SpecError` for a batch size below 1.
    """
    _check_batch_size(batch_size)
    random = Random(f"{seed}/{epoch}")  # text is hashed by SHA-512, the same in every process
    order = list(range(len(lengths)))
    random.shuffle(order)
    batches = []
    for start in range(0, len(order), batch_size * pool):
        near = sorted(order[start : start + batch_size * pool], key=lambda index: lengths[index])
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


def collate(encoded: Sequence[AnyEncoded], pad_id: int, *, causal: bool = False, longest: int = 0) -> Batch:
    """One batch of examples that are all of one kind; texts are padded on the right with `pad_id`.

    They are padded to the longest of the batch; in a run whose longest text of all is `longest`, to the next multiple
    of `WIDTH_STEP` that is no longer than that.

    The mask is left out where nothing is padded; and for `causal` language models always. That is exact: a token
    of a causal model sees only tokens to its left, all padding is to the right of every real token, so no
    real token's output depends on it, positions count from the left alike, and the loss is taken at real tokens only.
    Without a mask attention takes its fastest path. For encoders the padding must be masked. Images are decoded here;
    raises `DataError` for one that cannot be.
    """
    pairs = [each for each in encoded if isinstance(each, EncodedPair)]
    if pairs:
        return _collate_pairs(pairs, pad_id, causal=causal, longest=longest)
    rows = [each for each in encoded if isinstance(each, EncodedRow)]
    if rows:
        return _collate_rows(rows, pad_id, longest)
    images = [each for each in encoded if isinstance(each, EncodedImage)]
    texts = [each for each in encoded if isinstance(each, Encoded)]
    single = [each for each in encoded if isinstance(each, Encoded | EncodedImage)]
    weights = [each.weight for each in single]
    return Batch(
        inputs={"pixel_values": pixel_values(images)} if images else _text_inputs(texts, pad_id, causal, longest),
        labels=_label_tensor(
            [each.labels for each in encoded if not isinstance(each, EncodedPair | EncodedRow)], longest
        ),
        tokens=sum(each.tokens for each in encoded),
        targets=sum(each.targets for each in encoded),
        weights=torch.tensor(weights) if any(weight != 1 for weight in weights) else None,
    )


def _collate_pairs(pairs: Sequence[EncodedPair], pad_id: int, *, causal: bool, longest: int) -> Batch:
    rows = [*(each.chosen for each in pairs), *(each.rejected for each in pairs)]
    weights = [each.weight for each in pairs]
    return replace(
        collate(rows, pad_id, causal=causal, longest=longest),
        targets=len(pairs),
        weights=torch.tensor(weights) if any(weight != 1 for weight in weights) else None,
        pairs=True,
    )


def _collate_rows(rows: Sequence[EncodedRow], pad_id: int, longest: int) -> Batch:
    """Packed rows: positions begin anew with every example, and with the padding: they tell a model what to keep apart.

    There is no mask: a model that reads positions so makes its own from them, and no other is given such rows.
    """
    each_own = [list(row.examples) for row in rows]
    ids = _padded([[token for each in row for token in each.input_ids] for row in each_own], pad_id, longest)
    lengths = [[len(each.input_ids) for each in row] for row in each_own]
    positions = [[place for length in (*row, ids.shape[1] - sum(row)) for place in range(length)] for row in lengths]
    weights = [[each.weight for each in row for _ in each.input_ids] for row in each_own]
    uneven = any(weight != 1 for row in weights for weight in row)
    return Batch(
        inputs={"input_ids": ids, "position_ids": torch.tensor(positions)},
        labels=_padded([_labels_of(row) for row in each_own], IGNORED, longest),
        tokens=sum(row.tokens for row in rows),
        targets=sum(row.targets for row in rows),
        weights=_padded(weights, 0.0, longest) if uneven else None,
    )


def _labels_of(examples: Sequence[Encoded]) -> list[int]:
    """No example's first token is foreseen from the one before it."""
    return [
        label for each in examples for label in (IGNORED, *(each.labels if isinstance(each.labels, list) else [])[1:])
    ]


def longest_width(encoded: Sequence[AnyEncoded]) -> int:
    """The tokens of the longest row that a batch of these examples can have; 0 of images."""
    return max((each.width for each in encoded if not isinstance(each, EncodedImage)), default=0)


def _text_inputs(texts: Sequence[Encoded], pad_id: int, causal: bool, longest: int) -> dict[str, Tensor]:
    rows = [each.input_ids for each in texts]
    kinds = [each.token_type_ids for each in texts if each.token_type_ids is not None]
    inputs = {"input_ids": _padded(rows, pad_id, longest)}
    if sum(map(len, rows)) < inputs["input_ids"].numel() and not causal:
        inputs["attention_mask"] = _padded([[1] * len(row) for row in rows], 0, longest)
    if kinds:
        inputs["token_type_ids"] = _padded(kinds, 0, longest)
    return inputs


def _label_tensor(labels: Sequence[list[int] | int | float | None], longest: int) -> Tensor | None:
    sequences = [each for each in labels if isinstance(each, list)]
    if sequences:
        return _padded(sequences, IGNORED, longest)
    known = [each for each in labels if isinstance(each, int | float)]
    if len(known) < len(labels):
        return None
    return torch.tensor(known, dtype=torch.int64 if isinstance(known[0], int) else torch.float32)


def _padded(rows: Sequence[Sequence[float]], value: float, longest: int) -> Tensor:
    needed = max(map(len, rows))
    width = max(needed, min(longest, math.ceil(needed / WIDTH_STEP) * WIDTH_STEP))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise SpecError(f"batch size {batch_size}: at least 1 is needed")
