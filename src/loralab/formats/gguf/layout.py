"""How llama.cpp calls and lays out the weights that an adapter updates: facts about its converters, as data.

A LoRA in GGUF has two tensors for each weight, `<weight>.lora_a` [R, I] and `<weight>.lora_b` [O, R] (numpy's order
of dimensions, which the file reverses), except that `token_embd.weight.lora_a` is [V, R]. Its scale is the file's one
alpha over the R of lora_b. Knows nothing of writing.

Some architectures store the rows of q and k in another order than Hugging Face. A rotary embedding turns pairs of
rows of a head; Hugging Face pairs row i with row i + D/2, llama.cpp the neighbours 2i and 2i + 1, so there row
(head, i, half) is Hugging Face's row (head, half, i).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loralab.errors import SpecError
from loralab.extras import lazy
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
    problems = [_about_tensor(key) for key in stored.others if key not in copies]
    for pair in stored.updates:
        problems += [f"{pair.name} ({pair.kind})"] if pair.kind not in HELD else _about_pair(pair, base)
    problems += [] if base is None else _resized(stored, base)
    return problems if stored.updates or problems else ["no low-rank factors at all"]


def _about_tensor(key: str) -> str:
    return f"{key} ({'a bias' if key.endswith('.bias') else 'trained in full'})"


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
