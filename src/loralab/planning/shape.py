"""The sizes that decide what a block keeps, read from a model's configuration and from the batch."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from loralab.models.families.aliases import block_paths
from loralab.models.fast.attention import longest

FLOAT32 = 4
"""Bytes of an element of what trains, its gradients and the optimizer's moments."""

_INNER = ("intermediate_size", "n_inner", "d_ff", "ffn_dim", "ffn_hidden_size", "encoder_ffn_dim", "decoder_ffn_dim")
_HIDDEN_DROPOUT = ("resid_pdrop", "hidden_dropout_prob", "dropout", "dropout_rate", "resid_dropout")
_ATTENTION_DROPOUT = ("attn_pdrop", "attention_probs_dropout_prob", "attention_dropout")


@dataclass(frozen=True)
class Workload:
    """The largest batch of a training, and how it is computed."""

    batch: int
    """Examples in it."""
    tokens: int
    """Of its longest example; the others are padded to it."""
    targets: int
    """Target tokens, or labels, of the whole batch."""
    dtype: torch.dtype
    """Of the frozen base and of the activations."""
    gradient_checkpointing: bool = False
    device: str = "cpu"
    gpus: int = 1
    """That share a step; the batch is what one of them has."""
    parts: int = 1
    """GPUs that hold the frozen blocks together, each a part of them; 1: each has all of them."""
    training_tokens: int = 0
    """Tokens of the encoded training set, which lies in memory as lists of Python integers."""


@dataclass(frozen=True)
class ModelSizes:
    """B·T tokens (`positions`) through L blocks; widths in elements, one element `size` bytes."""

    batch: int
    tokens: int
    size: int
    layers: int
    width: int
    inner: int
    heads: int
    groups: int
    head_width: int
    vocabulary: int
    hidden_dropout: bool
    attention_dropout: bool
    attention: str
    """`products` (models/fast/attention.py), or `fused` (torch's kernel)."""
    relative: int
    """Relative positions of DeBERTa's attention: rows of its table."""

    @property
    def positions(self) -> int:
        return self.batch * self.tokens

    @property
    def hidden(self) -> int:
        """Bytes of one [B, T, H]."""
        return self.positions * self.width * self.size

    @property
    def scores(self) -> int:
        """Elements of one [B, heads, T, T]."""
        return self.batch * self.heads * self.tokens**2


def shape_of(model: PreTrainedModel, work: Workload) -> ModelSizes:
    """The sizes of `model` on this batch. Nested configurations (of images and text) give those of the text."""
    config: Any = model.config.get_text_config()
    width, heads = int(config.hidden_size), int(config.num_attention_heads)
    attention_dropout = _positive(config, _ATTENTION_DROPOUT)
    blocks = sum(len(list(model.get_submodule(path).children())) for path in block_paths(model))
    return ModelSizes(
        batch=work.batch,
        tokens=work.tokens,
        size=work.dtype.itemsize,
        layers=blocks or int(config.num_hidden_layers),
        width=width,
        inner=_first(config, _INNER) or 4 * width,
        heads=heads,
        groups=_first(config, ("num_key_value_heads", "num_kv_heads")) or heads,
        head_width=_first(config, ("head_dim",)) or width // heads,
        vocabulary=int(getattr(config, "vocab_size", 0) or 0),
        hidden_dropout=_positive(config, _HIDDEN_DROPOUT),
        attention_dropout=attention_dropout,
        attention=_attention(work, attention_dropout),
        relative=2 * int(getattr(config, "position_buckets", 0) or 0),
    )


def _attention(work: Workload, dropout: bool) -> str:
    short = work.tokens <= longest(work.dtype)
    return "products" if work.device == "cpu" and (short or dropout) else "fused"


def _first(config: Any, names: tuple[str, ...]) -> int:
    """The first of these that the configuration has; 0 if it has none."""
    return next((int(value) for name in names if (value := getattr(config, name, None))), 0)


def _positive(config: Any, names: tuple[str, ...]) -> bool:
    return any(isinstance(rate := getattr(config, name, None), float) and rate > 0 for name in names)
