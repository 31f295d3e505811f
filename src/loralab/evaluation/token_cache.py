"""Encoded examples, kept in the cache folder by all that they come of: the same data are tokenised once.

What they come of is the examples themselves, the tokenizer with its chat template, the settings, and the code that
encodes. A set that is small is encoded anew, which is as quick. Files are tensors with a digest; one that is damaged
is made anew, and a folder that cannot be written costs time and nothing else. It knows no model.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import tokenizers
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from loralab.errors import LoralabError
from loralab.files.drafts import draft_file
from loralab.files.tensors import read_tensors, write_tensors
from loralab.models.cache import cache_folder
from loralab.tasks import encoding as encoding_package
from loralab.tasks.encoding.encode import Encoding, Processor
from loralab.tasks.encoding.encoded import AnyEncoded, Encoded, EncodedPair
from loralab.tasks.example import AnyExample
from loralab.tasks.task import Task

LEAST_BYTES = 2**21
"""Of examples, written out, from which on they are kept."""
MOST_BYTES = 2**30
"""Of all that is kept; what was not used for longest goes first."""
_CLOCK = "strftime_now"
"""What a chat template that writes the date calls: what it makes is another thing tomorrow."""


def encoded_once(
    task: Task, examples: Sequence[AnyExample], processor: Processor, settings: object, encode: Callable[[], Encoding]
) -> Encoding:
    """What `encode` gives for these examples, which depends on nothing but the other arguments."""
    place = _place(task, examples, processor, settings)
    if place is None:
        return encode()
    found, said = _read(place)
    if found is not None:
        return found
    encoding = encode()
    return replace(encoding, notes=(*encoding.notes, *said, *_kept(place, encoding)))


def _kept(place: Path, encoding: Encoding) -> Iterator[str]:
    """Write it; a sentence where that cannot be."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with draft_file(place.parent, place.name) as draft:
            draft.chmod(0o600)  # they are somebody's texts
            _write(draft, encoding)
            draft.replace(place)
        _forget_oldest(place.parent)
    except (OSError, LoralabError) as problem:
        yield f"the tokens could not be kept for the next run, which will make them anew: {problem}"


def _forget_oldest(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"), key=lambda each: each.stat().st_mtime, reverse=True)
    held = 0
    for each in files:
        held += each.stat().st_size
        if held > MOST_BYTES:
            each.unlink(missing_ok=True)


# -- what an encoding comes of -------------------------------------------------------------------------------------


def _place(task: Task, examples: Sequence[AnyExample], processor: Processor, settings: object) -> Path | None:
    """Where they are, or belong; None for what is not kept."""
    if not isinstance(processor, PreTrainedTokenizerBase) or task.inputs != "text":
        return None
    tokenizer = _identity(processor)
    if tokenizer is None:
        return None
    whole, size = sha256(), 0
    for example in examples:
        written = repr(example).encode("utf-8", "surrogatepass")
        whole.update(written)
        size += len(written)
    if size < LEAST_BYTES:
        return None
    for part in (task.kind, settings, tokenizer, _code(), transformers.__version__, tokenizers.__version__):
        whole.update(b"\0" + repr(part).encode("utf-8", "surrogatepass"))
    return cache_folder() / "tokens" / f"{whole.hexdigest()}.safetensors"


def _identity(tokenizer: PreTrainedTokenizerBase) -> tuple[object, ...] | None:
    """All that a tokenizer's output hangs on; None where that is not known: one with code of its own."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    made = type(tokenizer)
    if backend is None or not made.__module__.startswith("transformers.") or _CLOCK in str(tokenizer.chat_template):
        return None
    names = ("special_tokens_map", "chat_template", "model_input_names", "padding_side", "truncation_side")
    return (made.__name__, backend.to_str(), *(repr(getattr(tokenizer, name, None)) for name in names))


@cache
def _code() -> str:
    """The digest of the files that encode."""
    (folder,) = encoding_package.__path__
    return sha256(b"\0".join(each.read_bytes() for each in sorted(Path(folder).glob("*.py")))).hexdigest()


# -- as tensors ----------------------------------------------------------------------------------------------------


def _write(path: Path, encoding: Encoding) -> None:
    sides = [side for each in encoding.encoded for side in _sides(each)]
    tensors = {
        "ids": _flat(each.input_ids for each in sides),
        "id_counts": torch.tensor([len(each.input_ids) for each in sides], dtype=torch.int32),
        "labels": _flat(each.labels for each in sides if isinstance(each.labels, list)),
        "label_counts": torch.tensor([_label_count(each) for each in sides], dtype=torch.int32),
        "types": _flat(each.token_type_ids or () for each in sides),
        "typed": torch.tensor([each.token_type_ids is not None for each in sides]),
        "decoded": torch.tensor([each.decoded for each in sides]),
        "weights": torch.tensor([each.weight for each in sides], dtype=torch.float64),
        "pair_weights": torch.tensor(
            [each.weight for each in encoding.encoded if isinstance(each, EncodedPair)], dtype=torch.float64
        ),
    }
    values = json.dumps([None if isinstance(each.labels, list) else each.labels for each in sides])
    said = json.dumps([encoding.truncated, encoding.notes])
    write_tensors(path, tensors, {"values": values, "said": said, "digest": _digest(tensors, values, said)})


def _read(place: Path) -> tuple[Encoding | None, tuple[str, ...]]:
    """What is kept there, if it is whole; and what is to be said where it is not."""
    if not place.is_file():
        return None, ()
    try:
        file = read_tensors(place)
        values, said = file.metadata["values"], file.metadata["said"]
        if file.metadata["digest"] != _digest(file.tensors, values, said):
            raise ValueError("its digest is another")
        truncated, notes = json.loads(said)
        encoded = list(_rebuilt(file.tensors, json.loads(values)))
        os.utime(place)
    except (OSError, LoralabError, KeyError, ValueError) as problem:
        return None, (f"kept tokens were damaged and are made anew ({place}: {problem})",)
    return Encoding(encoded, truncated, (*notes, "the tokens are those that an earlier run kept")), ()


def _rebuilt(tensors: dict[str, Tensor], values: Sequence[int | float | None]) -> Iterator[AnyEncoded]:
    ids, labels, types = (_Reader(tensors[name]) for name in ("ids", "labels", "types"))
    columns = (tensors[name].tolist() for name in ("id_counts", "label_counts", "typed", "decoded", "weights"))
    sides = (
        Encoded(
            ids.next(length),
            value if targets < 0 else labels.next(targets),
            types.next(length) if typed else None,
            decoded,
            weight,
        )
        for value, length, targets, typed, decoded, weight in zip(values, *columns, strict=True)
    )
    weights = tensors["pair_weights"].tolist()
    yield from (EncodedPair(next(sides), next(sides), weight) for weight in weights)
    yield from sides


class _Reader:
    """Lists one after another out of a flat tensor."""

    def __init__(self, flat: Tensor) -> None:
        self._values, self._at = flat.tolist(), 0

    def next(self, count: int) -> list[int]:
        begin, self._at = self._at, self._at + count
        found: list[int] = self._values[begin : self._at]
        return found


def _sides(encoded: AnyEncoded) -> tuple[Encoded, ...]:
    if isinstance(encoded, EncodedPair):
        return encoded.sides
    assert isinstance(encoded, Encoded)  # rows are packed, and pixels read, after this
    return (encoded,)


def _label_count(encoded: Encoded) -> int:
    """How many labels stand in a list; −1 where there is none."""
    return len(encoded.labels) if isinstance(encoded.labels, list) else -1


def _flat(lists: Iterable[Sequence[int]]) -> Tensor:
    return torch.tensor([each for part in lists for each in part], dtype=torch.int32)


def _digest(tensors: dict[str, Tensor], *texts: str) -> str:
    whole = sha256("\0".join(texts).encode())
    for name in sorted(tensors):
        whole.update(name.encode() + tensors[name].numpy().tobytes())
    return whole.hexdigest()
