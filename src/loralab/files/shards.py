"""Safetensors files, one tensor at a time: read from a file or a sharded folder, and written without holding two.

The format (https://github.com/huggingface/safetensors): eight bytes with the header's length, little-endian; the
header, JSON, from name to dtype, shape and place; then the tensors' bytes, without gaps. Knows nothing of models.
"""

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from loralab.errors import ModelLoadError
from loralab.files.whole import whole_file
from loralab.progress import tracked

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
"""The format's names of element types."""
NAME_OF = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorKind:
    """What a tensor is, without its values."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()

    @classmethod
    def of(cls, tensor: Tensor) -> "TensorKind":
        """That of a tensor."""
        return cls(tensor.dtype, tuple(tensor.shape))


@dataclass(frozen=True)
class TensorFolder:
    """The tensors of a folder's `model.safetensors`, or of the shards that its index lists.

    A tensor that is read is mapped from the file: it costs memory only as its values are looked at, and the system
    can take that memory back. Reading raises ModelLoadError for a file that is missing, cut short or damaged.
    """

    folder: Path

    @cached_property
    def file_of(self) -> dict[str, str]:
        """Tensor name → name of the file that holds it."""
        index = self.folder / INDEX
        if index.is_file():
            return _weight_map(index)
        with _opened(self.folder / WEIGHTS) as file:
            return dict.fromkeys(file.keys(), WEIGHTS)

    @cached_property
    def kinds(self) -> dict[str, TensorKind]:
        """What each tensor is, read from the files' headers alone."""
        found = {}
        for shard in dict.fromkeys(self.file_of.values()):
            with _opened(self.folder / shard) as file:
                for name in file.keys():  # noqa: SIM118  # a safetensors file is not a mapping
                    part = file.get_slice(name)
                    found[name] = TensorKind(DTYPES[part.get_dtype()], tuple(part.get_shape()))
        return {name: found[name] for name in self.file_of if name in found}

    def read(self, name: str) -> Tensor:
        """One tensor, mapped from its file."""
        if name not in self.file_of:
            raise ModelLoadError(f"{self.folder} holds no tensor {name!r}")
        with _opened(self.folder / self.file_of[name]) as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


def write_tensors(path: Path, kinds: Mapping[str, TensorKind], read: Callable[[str], Tensor]) -> None:
    """Write the tensors called as in `kinds` to one file, whole; `read` is asked for each when its turn comes.

    They are laid down widest elements first, so that each is aligned. Raises OutputError if the disk is full or the
    place not writable; ValueError if `read` gives another dtype or shape than was announced (our bug).
    """
    names = sorted(kinds, key=lambda name: (-kinds[name].dtype.itemsize, name))
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        stream.write(_header(names, kinds))
        for name in tracked(names, "tensors written"):
            tensor = read(name)
            if TensorKind.of(tensor) != kinds[name]:
                raise ValueError(f"{name} was announced as {kinds[name]} and came as {TensorKind.of(tensor)}")
            stream.write(_as_bytes(tensor).numpy().data)


def write_index(folder: Path, file_of: Mapping[str, str], kinds: Mapping[str, TensorKind]) -> None:
    """Write the index that says which shard holds which tensor, as Hugging Face does."""
    metadata = {
        "total_parameters": sum(torch.Size(kinds[name].shape).numel() for name in file_of),
        "total_size": sum(kinds[name].size for name in file_of),
    }
    content = {"metadata": metadata, "weight_map": dict(sorted(file_of.items()))}
    with whole_file(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def in_shards(kinds: Mapping[str, TensorKind], limit: int) -> dict[str, str]:
    """Tensor name → file name, in shards of at most `limit` bytes (a larger tensor has its own)."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, kind in kinds.items():
        if groups[-1] and filled + kind.size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += kind.size
    if len(groups) == 1:
        return dict.fromkeys(kinds, WEIGHTS)
    return {
        name: f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        for number, group in enumerate(groups, 1)
        for name in group
    }


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors are alike in dtype, shape and every bit (NaNs included)."""
    return TensorKind.of(left) == TensorKind.of(right) and torch.equal(_as_bytes(left), _as_bytes(right))


def _header(names: Iterable[str], kinds: Mapping[str, TensorKind]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name in names:
        kind = kinds[name]
        place = [begin, begin + kind.size]
        entries[name] = {"dtype": NAME_OF[kind.dtype], "shape": list(kind.shape), "data_offsets": place}
        begin = place[1]
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        mapping = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {str(name): str(file) for name, file in mapping.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"{index} is damaged: it does not say which file holds which tensor") from error
    outside = sorted({file for file in names.values() if Path(file).name != file})
    if outside:
        raise ModelLoadError(f"{index} points out of its own folder: {', '.join(outside)}")
    return names


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file, opened by safetensors; what goes wrong with it is an ModelLoadError."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, FileNotFoundError) as error:
        raise ModelLoadError(f"{path} cannot be read: {error}; it is missing, cut short or damaged") from error
