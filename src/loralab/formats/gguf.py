"""An adapter as a LoRA in GGUF, which llama.cpp reads: how it calls and lays out the weights, as data; and the writing.

A LoRA in GGUF has two tensors for each weight, `<weight>.lora_a` [R, I] and `<weight>.lora_b` [O, R] (numpy's order
of dimensions, which the file reverses), except that `token_embd.weight.lora_a` is [V, R]. Its scale is the file's one
alpha over the R of lora_b; a weight with another scale has the difference multiplied into its B. All is in float32.

Some architectures store the rows of q and k in another order than Hugging Face. A rotary embedding turns pairs of
rows of a head; Hugging Face pairs row i with row i + D/2, llama.cpp the neighbours 2i and 2i + 1, so there row
(head, i, half) is Hugging Face's row (head, half, i).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from loralab.core.thin import Thin
from loralab.errors import AdapterFileError, NumericsError, SpecError, listed
from loralab.extras import lazy
from loralab.files.whole import whole_file
from loralab.formats.stored import StoredAdapter, StoredUpdate

if TYPE_CHECKING:
    from gguf import TensorNameMap

gguf = lazy("gguf", "gguf")

TOKENS, OUTPUT = "token_embd.weight", "output.weight"
HELD = ("linear", "embedding")
"""Kinds of factor pairs that a GGUF LoRA has a place for."""


@dataclass(frozen=True)
class Architecture:
    """What llama.cpp calls a model type, and whether it stores q and k with rotated pairs as neighbours."""

    name: str
    neighbours: bool = False


ARCHITECTURES = {
    "gemma": Architecture("gemma"),
    "gemma2": Architecture("gemma2"),
    "gemma3_text": Architecture("gemma3"),
    "gpt2": Architecture("gpt2"),
    "granite": Architecture("granite", neighbours=True),
    "llama": Architecture("llama", neighbours=True),
    "mistral": Architecture("llama", neighbours=True),
    "mixtral": Architecture("llama", neighbours=True),
    "phi3": Architecture("phi3"),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "smollm3": Architecture("smollm3", neighbours=True),
    "starcoder2": Architecture("starcoder2"),
}
"""Model type in config.json → architecture. Types whose weights llama.cpp's converter regroups are left out."""


@dataclass(frozen=True)
class GgufBase:
    """The base model as far as its GGUF's tensors are concerned."""

    name: str
    architecture: Architecture
    names: "TensorNameMap"
    query_heads: int
    key_heads: int
    ties_embeddings: bool
    vocabulary: int

    @staticmethod
    def of(name: str, config: Any) -> "GgufBase":
        """From a transformers configuration; SpecError for a model type that is not in ARCHITECTURES."""
        architecture = ARCHITECTURES.get(config.model_type)
        if architecture is None:
            raise SpecError(
                f"no names in GGUF are known for {name}, a model of type {config.model_type!r}; known are "
                f"{', '.join(ARCHITECTURES)}. Merge the adapter and convert the model with llama.cpp's own tools"
            )
        kind = next(arch for arch, called in gguf.MODEL_ARCH_NAMES.items() if called == architecture.name)
        heads = int(config.num_attention_heads)
        return GgufBase(
            name,
            architecture,
            gguf.get_tensor_name_map(kind, int(config.num_hidden_layers)),
            heads,
            int(getattr(config, "num_key_value_heads", None) or heads),
            bool(getattr(config, "tie_word_embeddings", False)),
            int(config.vocab_size),
        )

    def tensor_name(self, path: str) -> str | None:
        """`blk.3.attn_q.weight` for `model.layers.3.self_attn.q_proj`; None for a weight that llama.cpp lacks."""
        name = self.names.get_name(path)
        return None if name is None else f"{name}.weight"

    def row_order(self, tensor: str, rows: int) -> Tensor | None:
        """[O] numbers of Hugging Face's rows in llama.cpp's order; None where the order is the same.

        Raises SpecError where the rows do not come in pairs in this base's heads.
        """
        heads = {"attn_q.weight": self.query_heads, "attn_k.weight": self.key_heads}.get(tensor.split(".", 2)[-1])
        if heads is None or not self.architecture.neighbours:
            return None
        if rows % (2 * heads):
            raise SpecError(f"{tensor} has {rows} rows, which {self.name} with its {heads} heads cannot have")
        return torch.arange(rows).view(heads, 2, -1).transpose(1, 2).reshape(-1)


def obstacles(stored: StoredAdapter, base: GgufBase | None = None) -> list[str]:
    """All that a GGUF LoRA has no place for, or llama.cpp would refuse; with the base also names and ties."""
    if stored.is_own:
        return [f"method {stored.method}: no low-rank update of whole weights ({'; '.join(stored.why_not_peft)})"]
    copies = stored.base_copies
    problems = [
        f"{key} ({'a bias' if key.endswith('.bias') else 'trained in full'})"
        for key in stored.others
        if key not in copies
    ]
    for pair in stored.updates:
        problems += [f"{pair.name} ({pair.kind})"] if pair.kind not in HELD else _about_pair(pair, base)
    problems += [] if base is None else _resized(stored, base)
    return problems if stored.updates or problems else ["no low-rank factors at all"]


def _about_pair(pair: StoredUpdate, base: GgufBase | None) -> Iterator[str]:
    if base is None:
        return
    name = base.tensor_name(pair.name)
    if name is None:
        yield f"{pair.name} (llama.cpp's {base.architecture.name} has no weight that is called so)"
    elif name in (TOKENS, OUTPUT) and base.ties_embeddings:
        yield f"{pair.name} (input and output embeddings are one tensor in {base.name}, and the update is of one alone)"
    elif (pair.kind == "embedding") != (name == TOKENS):
        yield f"{pair.name} (llama.cpp applies an update of this embedding nowhere)"


def _resized(stored: StoredAdapter, base: GgufBase) -> list[str]:
    """PEFT puts a copy of an adapted embedding beside its factors, which is the base's own unless it was resized."""
    return [
        f"{key} ({len(each)} tokens, where {base.name} has {base.vocabulary})"
        for key, each in stored.others.items()
        if key.endswith(".base_layer.weight") and len(each) != base.vocabulary
    ]


# -- writing, and reading back -------------------------------------------------------------------------------------

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
