"""Tensors of a file: read safely, whoever wrote it; held against what they should be; written as PEFT writes them.

Nothing in a file is ever executed: safetensors wherever it is claimed. A file from torch.save is a pickle; it is read
with `weights_only`, which admits tensors and plain containers and refuses everything else. Knows nothing of adapters.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251  only the name of the exception that torch.load raises

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from loralab.errors import AdapterFileError, NotFoundError, listed, some

SAFETENSORS = ".safetensors"
_LENGTH = 8
"""Bytes that say how long the header of a safetensors file is."""
_PICKLED = (b"PK\x03\x04", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
_DAMAGED = (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError, OSError)


@dataclass(frozen=True)
class TensorFile:
    """Tensors by name, on the CPU, and the file's own text metadata."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: Mapping[str, str]


def read_tensors(path: Path) -> TensorFile:
    """All tensors of a .safetensors file or of a state dict written by torch.save.

    Raises NotFoundError, or AdapterFileError for a damaged file, a pickle that poses as safetensors, and a pickle
    with anything but tensors in it.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: there is no such file")
    with path.open("rb") as stream:
        head = stream.read(9)
    pickled = head.startswith(_PICKLED) and head[8:] != b"{"  # safetensors: 8 bytes of length, then JSON
    if path.suffix == SAFETENSORS and pickled:
        raise AdapterFileError(
            f"{path} is called safetensors but is a pickle, which could run code when it is loaded; "
            "get a genuine safetensors file"
        )
    return _read_pickle(path) if pickled else _read_safetensors(path)


def _read_safetensors(path: Path) -> TensorFile:
    try:
        with safe_open(str(path), framework="pt", device="cpu") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  not a mapping
            return TensorFile(path, _widened(path, tensors), stream.metadata() or {})
    except (SafetensorError, OSError) as problem:
        raise AdapterFileError(
            f"{path} ({path.stat().st_size} bytes) is not a complete safetensors file: {problem}; "
            "it was truncated or damaged, get it again"
        ) from problem


def _read_pickle(path: Path) -> TensorFile:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as problem:
        reason = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise AdapterFileError(
            f"{path} cannot be read safely: it is damaged, or holds more than tensors ({reason}); "
            "ask its author for a safetensors file"
        ) from problem
    strange = [
        f"{name!r}: {type(value).__name__}"
        for name, value in (content.items() if isinstance(content, Mapping) else [("", content)])
        if not isinstance(name, str) or not isinstance(value, Tensor)
    ]
    if strange:
        raise AdapterFileError(
            f"{path} should hold tensors by name, but holds {some(strange, 5)}; save the adapter's state dict alone"
        )
    return TensorFile(path, _widened(path, {name: value.detach() for name, value in content.items()}), {})


def _widened(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, those of eight bits in float32: torch can do little else with them."""
    narrow = [name for name, each in tensors.items() if each.is_floating_point() and each.element_size() == 1]
    packed = [name for name in narrow if not str(tensors[name].dtype).startswith("torch.float8_")]
    if packed:
        raise AdapterFileError(
            f"{path} holds {tensors[packed[0]].dtype} in {some(packed, 5)}: several numbers in a byte, which are "
            "not read; save the adapter in float32 or bfloat16"
        )
    return tensors | {name: tensors[name].float() for name in narrow}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write all tensors, with the metadata `format: pt` that PEFT and transformers look for; OSError if it fails.

    The same tensors and metadata give the same bytes.
    """
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().contiguous()
        storage = values.untyped_storage().data_ptr()
        plain[name] = values.clone() if storage in seen else values
        seen.add(storage)
    content = memoryview(save(plain, metadata={"format": "pt", **(metadata or {})}))
    begin = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    header = _ordered(bytes(content[_LENGTH:begin]))
    with path.open("wb") as stream:
        for part in (len(header).to_bytes(_LENGTH, "little"), header, content[begin:]):
            stream.write(part)


def _ordered(header: bytes) -> bytes:
    """The header with its metadata in the order of their names: safetensors writes them in another order each time."""
    content = json.loads(header)
    content["__metadata__"] = dict(sorted(content["__metadata__"].items()))
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % _LENGTH)  # the tensors begin at a multiple of eight


def of_shape(shape: Sequence[int]) -> Tensor:
    """A tensor of floating-point numbers that holds none: what others are held against."""
    return torch.empty(tuple(shape), device="meta")


def refuse_unfit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """AdapterFileError listing what `problems_of` finds."""
    problems = problems_of(tensors, expected)
    if problems:
        raise AdapterFileError(f"the adapter does not fit this model: {listed(problems)}")


def problems_of(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Every tensor that is missing, extra, not finite, or unlike what is expected: of another shape, or of whole
    numbers in the place of others. A sentence each."""
    problems = [f"{key} is missing" for key in expected if key not in tensors]
    problems += [
        f"{key} belongs to nothing that the adapter targets in this model" for key in tensors.keys() - expected
    ]
    for key in sorted(tensors.keys() & expected.keys()):
        found, like = tensors[key], expected[key]
        if found.shape != like.shape:
            problems.append(f"{key} has shape {list(found.shape)}, not {list(like.shape)}")
        elif like.is_floating_point() and not found.is_floating_point():
            problems.append(f"{key} holds {str(tensors[key].dtype).removeprefix('torch.')}, not floating-point numbers")
        elif not is_finite(tensors[key]):
            problems.append(f"{key} holds NaN or infinite values")
    return sorted(problems)


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
