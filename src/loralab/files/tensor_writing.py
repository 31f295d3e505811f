"""Write tensors to a safetensors file as PEFT does. Knows nothing of names and places (see `atomic.py`)."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write all tensors, with the metadata `format: pt` that PEFT and transformers look for; OSError if it fails."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().contiguous()
        storage = values.untyped_storage().data_ptr()
        plain[name] = values.clone() if storage in seen else values
        seen.add(storage)
    path.write_bytes(save(plain, metadata={"format": "pt", **(metadata or {})}))
