"""An adapter written as a GGUF LoRA for llama.cpp, and read back before it counts as written.

Everything is stored in float32. GGUF has one alpha for all weights and takes alpha/R as the scale, R the rank of the
stored factors; a weight with another scale has the difference multiplied into its B.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loralab.core.thin import Thin
from loralab.errors import AdapterFileError, NumericsError, listed
from loralab.extras import lazy
from loralab.files.whole import whole_file
from loralab.formats.gguf.layout import TOKENS, GgufBase, obstacles
from loralab.formats.stored import StoredAdapter, StoredUpdate

gguf = lazy("gguf", "gguf")

A, B = "lora_a", "lora_b"
TOLERANCE = 1e-6
"""Of ‖ΔW read back − ΔW‖ / ‖ΔW‖: float32 rounds a product of two factors to about 1e-7."""


@dataclass(frozen=True)
class WrittenGguf:
    """What was written, and how well what is in the file agrees with the adapter."""

    tensors: int
    lossless: bool
    max_relative_error: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ReadGguf:
    """A GGUF LoRA as it is in the file: (lora_a, lora_b) by the weight's name, and the one alpha."""

    architecture: str
    alpha: float
    pairs: Mapping[str, tuple[Tensor, Tensor]]


def write_gguf(stored: StoredAdapter, base: GgufBase, target: Path) -> WrittenGguf:
    """Write the adapter to `target`, which is moved into place only when every ΔW was found in it again.

    Raises AdapterFileError naming all that GGUF has no place for, NumericsError where what was read back differs.
    """
    problems = obstacles(stored, base)
    if problems:
        raise AdapterFileError(
            f"{stored.source} cannot be converted to GGUF, which has no place for {listed(problems)}; "
            "merge the adapter and convert the whole model instead"
        )
    alpha = _common_alpha(stored)
    tensors: dict[str, Tensor] = {}
    rounded = []
    for pair in stored.updates:
        name = str(base.tensor_name(pair.name))
        exact = _stored(pair, base, name, alpha)
        written = tuple(each.float().contiguous() for each in exact)
        tensors |= dict(zip((f"{name}.{A}", f"{name}.{B}"), written, strict=True))
        if not _own_alpha(pair) or not all(map(torch.equal, exact, (each.double() for each in written))):
            rounded.append(pair.name)
    with whole_file(target) as temporary:
        _write(temporary, tensors, alpha, base)
        error = _largest_error(stored, base, read_gguf(temporary))
    folded = [pair.name for pair in stored.updates if _own_alpha(pair) != alpha]
    notes = [f"{len(folded)} scales differ from alpha {alpha:g} / rank and were multiplied into B"] if folded else []
    notes += [f"{len(rounded)} of {len(stored.updates)} updates were rounded to float32"] if rounded else []
    return WrittenGguf(len(tensors), not rounded, error, tuple(notes))


def read_gguf(path: Path) -> ReadGguf:
    """A GGUF LoRA's tensors, whoever wrote it; AdapterFileError for any other file."""
    reader = gguf.GGUFReader(path)
    general, adapter = gguf.Keys.General, gguf.Keys.Adapter
    said = (general.TYPE, general.ARCHITECTURE, adapter.TYPE, adapter.LORA_ALPHA)
    fields: dict[str, Any] = {
        key: None if field is None else field.contents() for key in said if (field := reader.get_field(key))
    }
    if (fields.get(general.TYPE), fields.get(adapter.TYPE)) != (gguf.GGUFType.ADAPTER, "lora"):
        raise AdapterFileError(f"{path} is no LoRA in GGUF: it says {fields}")
    tensors = {each.name: torch.from_numpy(np.array(each.data)) for each in reader.tensors}
    names = [name.removesuffix(f".{A}") for name in tensors if name.endswith(f".{A}")]
    pairs = {name: (tensors[f"{name}.{A}"], tensors[f"{name}.{B}"]) for name in names}
    return ReadGguf(str(fields[general.ARCHITECTURE]), float(fields[adapter.LORA_ALPHA]), pairs)


def _own_alpha(pair: StoredUpdate) -> float:
    """The alpha with which alpha/R is this pair's scale."""
    return pair.scale * pair.B.shape[-1]


def _common_alpha(stored: StoredAdapter) -> float:
    """The alpha that suits most pairs, as float32 has it. Never zero, which llama.cpp takes for a scale of one."""
    alphas = Counter(alpha for pair in stored.updates if (alpha := _own_alpha(pair)) != 0)
    return float(np.float32(alphas.most_common(1)[0][0])) if alphas else 1.0


def _stored(pair: StoredUpdate, base: GgufBase, name: str, alpha: float) -> tuple[Tensor, Tensor]:
    """(lora_a, lora_b) in float64 and in llama.cpp's order."""
    B_OR = pair.B.double() * (_own_alpha(pair) / alpha)
    order = base.row_order(name, len(B_OR))
    A_double = pair.A.double()
    return A_double.mT if name == TOKENS else A_double, B_OR if order is None else B_OR[order]


def _write(path: Path, tensors: Mapping[str, Tensor], alpha: float, base: GgufBase) -> None:
    writer = gguf.GGUFWriter(path, base.architecture.name)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base.name)
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _largest_error(stored: StoredAdapter, base: GgufBase, read: ReadGguf) -> float:
    """The largest ‖ΔW read − ΔW‖_F / ‖ΔW‖_F; NumericsError beyond the tolerance, or if other weights are there."""
    expected = {str(base.tensor_name(pair.name)): pair for pair in stored.updates}
    errors = {name: _error(pair, base, name, read) for name, pair in expected.items() if name in read.pairs}
    wrong = [f"{name} is off by {error:.1e}" for name, error in errors.items() if not error <= TOLERANCE]
    wrong += [f"{name} is in one of the two only" for name in expected.keys() ^ read.pairs.keys()]
    if wrong:
        raise NumericsError(f"what was written to GGUF is not the adapter: {listed(wrong)}; nothing was kept")
    return max(errors.values())


def _error(pair: StoredUpdate, base: GgufBase, name: str, read: ReadGguf) -> float:
    """‖s'B'A' − sBA‖ / ‖sBA‖."""
    A_read, B_read = (each.double() for each in read.pairs[name])
    if name == TOKENS:
        A_read = A_read.mT
    order = base.row_order(name, len(B_read))
    if order is not None:
        B_read = torch.empty_like(B_read).index_copy_(0, order, B_read)
    written, own = Thin(A_read, B_read * (read.alpha / B_read.shape[1])), Thin.of(pair.A, pair.B, pair.scale)
    difference, norm = written.distance(own), own.norm()
    return difference / norm if norm else float("inf") if difference else 0.0
