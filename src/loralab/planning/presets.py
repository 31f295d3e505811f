"""Published models by name, as the values of their configurations: enough to count and to plan, without a download.

What a row does not say is transformers' default for the model type. Sources: the models' papers and their published
config.json; GPT-3 (arXiv 2005.14165, table 2.1) is planned as a GPT-2 of its size, with tied embeddings. It knows
nothing of torch and builds nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Values = Mapping[str, object]


@dataclass(frozen=True)
class Preset:
    """A model type of transformers, and where its configuration differs from that type's defaults."""

    model_type: str
    values: Values = field(default_factory=dict)


def _gpt2(layers: int, width: int, heads: int, context: int = 1024) -> Preset:
    return Preset("gpt2", {"n_layer": layers, "n_embd": width, "n_head": heads, "n_positions": context})


def _encoder(model_type: str, layers: int, width: int, heads: int, **others: object) -> Preset:
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    return Preset(model_type, sizes | {"intermediate_size": 4 * width} | others)


def _roberta(layers: int, width: int, heads: int) -> Preset:
    others = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
    return _encoder("roberta", layers, width, heads, **others)


def _deberta_v2(layers: int, width: int, heads: int, **others: object) -> Preset:
    """Disentangled attention with shared projections in 256 buckets (arXiv 2006.03654)."""
    attention = {
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
        "pooler_hidden_size": width,
        "vocab_size": 128100,
    }
    return _encoder("deberta-v2", layers, width, heads, **attention | others)


def _llama(layers: int, width: int, inner: int, heads: int, groups: int, **others: object) -> Preset:
    sizes = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
    }
    return Preset("llama", sizes | others)


_CONVOLUTION = {"conv_kernel_size": 3, "conv_act": "gelu"}
"""The two largest DeBERTas have a convolution beside their first block."""
_LLAMA_2 = {"max_position_embeddings": 4096}
_LLAMA_3 = {"vocab_size": 128256, "max_position_embeddings": 8192}
_LLAMA_3_2 = {"vocab_size": 128256, "max_position_embeddings": 131072, "tie_word_embeddings": True}

PRESETS: dict[str, Preset] = {
    "gpt2": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "gpt3-175b": _gpt2(96, 12288, 96, context=2048),
    "bert-base": _encoder("bert", 12, 768, 12),
    "bert-large": _encoder("bert", 24, 1024, 16),
    "roberta-base": _roberta(12, 768, 12),
    "roberta-large": _roberta(24, 1024, 16),
    "deberta-v3-base": _deberta_v2(12, 768, 12),
    "deberta-v2-xlarge": _deberta_v2(24, 1536, 24, **_CONVOLUTION),
    "deberta-v2-xxlarge": _deberta_v2(48, 1536, 24, **_CONVOLUTION),
    "llama-7b": _llama(32, 4096, 11008, 32, 32),
    "llama-13b": _llama(40, 5120, 13824, 40, 40),
    "llama-30b": _llama(60, 6656, 17920, 52, 52),
    "llama-65b": _llama(80, 8192, 22016, 64, 64),
    "llama-2-7b": _llama(32, 4096, 11008, 32, 32, **_LLAMA_2),
    "llama-2-13b": _llama(40, 5120, 13824, 40, 40, **_LLAMA_2),
    "llama-2-70b": _llama(80, 8192, 28672, 64, 8, **_LLAMA_2),
    "llama-3-8b": _llama(32, 4096, 14336, 32, 8, **_LLAMA_3),
    "llama-3-70b": _llama(80, 8192, 28672, 64, 8, **_LLAMA_3),
    "llama-3.2-1b": _llama(16, 2048, 8192, 32, 8, head_dim=64, **_LLAMA_3_2),
    "llama-3.2-3b": _llama(28, 3072, 8192, 24, 8, head_dim=128, **_LLAMA_3_2),
}
