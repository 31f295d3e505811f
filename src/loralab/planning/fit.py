"""Does a training fit a GPU: by how much, the largest batch that does, and what to change, in which order.

Changes build on each other, and each is weighed by planning the training again with it: what costs least in time and
exactness comes first. The recipe ends where the training fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from loralab.errors import LoralabError
from loralab.methods.table import rows_of
from loralab.planning.config import LARGEST, PlanConfig
from loralab.planning.gpu import bytes_of
from loralab.planning.training import PlannedTraining, planned
from loralab.progress import tracked

HALF = 2
"""Bytes of a 16-bit number."""
SHORTEST = 128
"""Tokens below which examples are not cut."""
FEWEST_TARGETS = "q,v"
"""The paper's choice (§7.1): two matrices of every attention."""


@dataclass(frozen=True)
class Change:
    """One change, on top of those before it."""

    change: str
    flags: str
    """Of `loralab train`."""
    saves: int
    """Bytes of a GPU."""
    total: int
    """Bytes with it."""
    fits: bool


@dataclass(frozen=True)
class Fit:
    """The verdict."""

    gpu_bytes: int
    gpus: int
    fits: bool
    spare: int
    """Bytes that are left; below zero what is missing."""
    largest_batch: int
    """That fits as the training is; 0 where not one example does. Of all GPUs together."""
    changes: tuple[Change, ...] = ()
    """None where it fits; the last one fits, if any way does."""
    flags: str | None = None
    """All changes together for `loralab train`, with the largest batch that then fits; None where nothing helps."""


def fit(training: PlannedTraining) -> Fit:
    """The verdict on a training that has a `gpu_memory`."""
    config = training.config
    assert config.gpu_memory is not None
    room, total = bytes_of(config.gpu_memory), training.memory(config.batch_size).total
    largest = largest_batch(training, room)
    verdict = Fit(room, config.gpus, total <= room, room - total, largest)
    if verdict.fits:
        return verdict
    changes, last = _recipe(training, room)
    return replace(verdict, changes=tuple(changes), flags=_flags(changes, last, config.batch_size, room))


def largest_batch(training: PlannedTraining, room: int) -> int:
    """A batch that fits into `room` bytes of every GPU while one more example does not; 0 if none fits."""
    share = training.config.gpus

    def fits(batch: int) -> bool:
        return training.memory(batch * share).total <= room

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
        if high > LARGEST:
            return low * share
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * share


# -- what to change -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Way:
    """A change that may help."""

    words: str
    flags: str
    config: PlanConfig


def _recipe(training: PlannedTraining, room: int) -> tuple[list[Change], PlannedTraining]:
    """The changes up to the first that makes it fit, and the training with all of them."""
    changes: list[Change] = []
    total = training.memory(training.config.batch_size).total
    for way in tracked(_WAYS, "ways to save memory"):
        while total > room and (found := way(training, room)) is not None:
            changed = _taken(found.config)
            after = total if changed is None else changed.memory(found.config.batch_size).total
            if changed is None or after >= total:
                break
            changes.append(Change(found.words, found.flags, total - after, after, after <= room))
            training, total = changed, after
    return changes, training


def _taken(config: PlanConfig) -> PlannedTraining | None:
    """None where the method or the model does not take it, as full fine-tuning takes no four bits."""
    try:
        config.validate()
        return planned(config)
    except LoralabError:
        return None


def _smaller_batch(training: PlannedTraining, room: int) -> _Way | None:
    config = training.config
    if config.batch_size <= config.gpus:
        return None
    batch, accumulate = _split(config.batch_size, max(largest_batch(training, room), config.gpus))
    flags = f"--batch-size {batch} --accumulate {accumulate}"
    return _Way(f"batches of {batch}, {accumulate} to a step", flags, replace(config, batch_size=batch))


def _split(wanted: int, most: int) -> tuple[int, int]:
    """A batch of at most `most`, and how many of them make the wanted one."""
    accumulate = ceil(wanted / most)
    return ceil(wanted / accumulate), accumulate


def _checkpointing(training: PlannedTraining, room: int) -> _Way | None:
    if training.config.gradient_checkpointing:
        return None
    changed = replace(training.config, gradient_checkpointing=True)
    return _Way("compute blocks again in the backward pass", "--gradient-checkpointing", changed)


def _low_rank(training: PlannedTraining, room: int) -> _Way | None:
    if not any(row.trains_weights for row in rows_of(training.config.method)):
        return None
    changed = replace(training.config, method="lora")
    return _Way("train low-rank updates beside the weights, not these", "--method lora", changed)


def _sixteen_bits(training: PlannedTraining, room: int) -> _Way | None:
    if training.dtype.itemsize <= HALF:
        return None
    return _Way("the base in 16 bits", "--dtype bfloat16", replace(training.config, dtype="bfloat16"))


def _four_bits(training: PlannedTraining, room: int) -> _Way | None:
    if training.config.quantize is not None:
        return None
    return _Way("the base's dense layers in 4 bits", "--quantize nf4", replace(training.config, quantize="nf4"))


def _sharded(training: PlannedTraining, room: int) -> _Way | None:
    if training.config.shard or training.config.gpus < 2:
        return None
    return _Way("a part of the base on each GPU", "--shard", replace(training.config, shard=True))


def _shorter(training: PlannedTraining, room: int) -> _Way | None:
    config, length = training.config, max(SHORTEST, training.length // 2)
    if length >= training.length:
        return None
    targets = None if config.target_tokens is None else min(config.target_tokens, length)
    changed = replace(config, sequence_length=length, target_tokens=targets)
    return _Way(f"examples of at most {length} tokens", f"--max-length {length}", changed)


def _fewer_targets(training: PlannedTraining, room: int) -> _Way | None:
    if training.config.targets in (None, FEWEST_TARGETS):
        return None
    changed = replace(training.config, targets=FEWEST_TARGETS)
    return _Way("adapt q and v alone", f"--targets {FEWEST_TARGETS}", changed)


_WAYS = (_smaller_batch, _checkpointing, _low_rank, _sixteen_bits, _sharded, _four_bits, _shorter, _fewer_targets)
"""In the order of what they cost. A way is gone as far as it helps: examples are halved again and again."""


def _flags(changes: Sequence[Change], last: PlannedTraining, wanted: int, room: int) -> str | None:
    """All of them, and the largest batch that fits with them in the place of the first change's."""
    if not changes or not changes[-1].fits:
        return None
    batch, accumulate = _split(wanted, min(wanted, largest_batch(last, room)))
    final = {each.flags.split()[0]: each.flags for each in changes if not each.flags.startswith("--batch-size")}
    batches = f"--batch-size {batch}" + (f" --accumulate {accumulate}" if accumulate > 1 else "")
    return " ".join([batches, *final.values()])
